"""One GRPO step against stock TRL's: sampling, the reference, the policy's gradient. Each side in its own process.

    python benchmarks/speed/grpo.py --prompt 400        the claims `speed.grpo_*_p400`
    python benchmarks/speed/grpo.py --prompt 1500       more than an hour; each run is kept in grpo-1500.json

Both sides get the same base, adapter, prompts, completions and rewards, beta 0.02, no skipping (every group has a
gradient), a learning rate of zero. Stock runs in the fastest of its micro-batches that stays under 20 GiB. Losses and
gradients are compared in fp32; times and memory are taken in the dtype that is faster here, with sampling of
completions that never end.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
from stock import LORA, Series, in_own_process, shares, stock_policy

from skillcompose.machine import fast_dtype

PROMPTS, GROUP, NEW = 4, 8, 32
BETA = 0.02
MICRO_BATCHES = (4, 8, 16, 32)
MEMORY_GIB = 20
SEED = 0


def side(given: argparse.Namespace) -> None:
    """Runs in a process of its own; writes seconds, loss, gradients, peak memory, or a profile to `given.out`."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from skillcompose.builtin import resolve
    from skillcompose.composition.shared_prefix import SharedPrefixGRPOTrainer
    from skillcompose.generation import Sampling, generate
    from skillcompose.models import load_base, load_tokenizer, new_adapter
    from skillcompose.training import machine_settings

    name, group, micro, profile = given.side, given.group, given.micro, given.profile
    folder = resolve(given.model)
    tokenizer = load_tokenizer(folder)
    policy = stock_policy(folder, SEED) if name == "stock" else new_adapter(load_base(folder), LORA, SEED)
    torch.manual_seed(SEED)
    for parameter_name, parameter in policy.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.normal_(0, 0.01)
    words = torch.randint(1000, len(tokenizer) - 1, (PROMPTS, given.prompt)).tolist()
    completions = torch.randint(1000, len(tokenizer) - 1, (PROMPTS * group, NEW)).tolist()
    # The first `given.equal` groups have nothing to learn from.
    rewards = [float(i // group >= given.equal and i % group < 1 + i // group) for i in range(PROMPTS * group)]
    found: dict[str, Any] = {}
    traces = {part: torch.profiler.profile() if profile else nullcontext() for part in ("seconds", "sampling")}

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            traces["seconds"].__enter__()
            self.begin = time.monotonic()

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            found["seconds"] = time.monotonic() - self.begin
            traces["seconds"].__exit__(None, None, None)
            trained = [p for n, p in sorted(policy.named_parameters()) if p.requires_grad and ".default." in n]
            found["gradient"] = torch.cat([p.grad.float().flatten() for p in trained])

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        return {
            "prompt_ids": [words[int(text)] for text in prompts],
            "completion_ids": [completions[int(text) * group + i % group] for i, text in enumerate(prompts)],
            "logprobs": None,
        }

    def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return [rewards[completions.index(list(ids))] for ids in completion_ids]

    settings = machine_settings(given.out.parent / "trainer", SEED) | {"save_strategy": "no"}
    arguments = GRPOConfig(
        **settings,
        beta=given.beta,
        loss_type="dr_grpo",
        num_generations=group,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=PROMPTS * group // micro,
        max_completion_length=NEW,
        max_steps=given.steps,
        learning_rate=0.0,
        weight_decay=0.0,
        max_grad_norm=0.0,
    )
    kind = GRPOTrainer if name == "stock" else SharedPrefixGRPOTrainer
    extra: dict[str, Any] = {"rollout_func": rollout} if name == "stock" else {}
    trainer = kind(
        policy,
        reward,
        arguments,
        train_dataset=Dataset.from_list([{"prompt": str(i)} for i in range(PROMPTS)]),
        processing_class=tokenizer,
        callbacks=[Clock()],
        **extra,
    )
    trainer.rollout_func = rollout
    trainer.train()
    found["loss"] = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    policy.eval()
    endless = SimpleNamespace(eos_token_id=-1, pad_token_id=0)
    begin = time.monotonic()
    if name == "stock":
        ids = torch.tensor([row for row in words for _ in range(group)])
        with torch.no_grad():
            policy.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                min_new_tokens=NEW,
                max_new_tokens=NEW,
            )
    else:
        from skillcompose.models import using

        with using(policy, "default"), traces["sampling"]:
            generate(policy, endless, words, group, Sampling(NEW, 1.0))  # type: ignore[arg-type]
    found["sampling"] = time.monotonic() - begin
    if profile:
        found["shares"] = {part: shares(trace, found[part]) for part, trace in traces.items()}
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    torch.save(found, given.out)


def run(
    name: str,
    model: str,
    prompt: int,
    micro: int,
    group: int = GROUP,
    dtype: str | None = None,
    profile: bool = False,
    beta: float = BETA,
    equal: int = 0,
    steps: int = 1,
    preload: bool = False,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.pt"
        given = ["--model", model, "--prompt", prompt, "--group", group, "--micro", micro, *["--profile"] * profile]
        given += ["--beta", beta, "--equal", equal, "--steps", steps]
        in_own_process(__file__, "--side", name, "--out", out, *given, dtype=dtype, preload=preload)
        result: dict[str, Any] = torch.load(out)
        return result


class Turns(Series):
    """Both sides in turn, at one length of prompts."""

    def __init__(self, model: str, prompt: int) -> None:
        super().__init__(f"grpo-{prompt}")
        self.model, self.prompt = model, prompt

    def timed(self, micro: int) -> dict[str, Any]:
        return times(run("stock", self.model, self.prompt, micro))

    def fastest(self) -> int:
        """Stock's micro-batch; a larger one takes nearly twice the memory, and is not tried where one was no use."""
        trials: dict[int, dict[str, Any]] = {}
        for size in MICRO_BATCHES[1 if self.prompt < 1000 else 0 :]:
            found = self.entry(f"stock in micro-batches of {size}", partial(self.timed, size))
            if found["memory"] < MEMORY_GIB:
                trials[size] = found
            if 1.8 * found["memory"] > MEMORY_GIB or found["seconds"] > min(t["seconds"] for t in trials.values()):
                break
        return min(trials, key=lambda size: trials[size]["seconds"])

    def turn(self, micro: int) -> dict[str, Any]:
        found = self.both(micro, None)
        exact = differences(found) if fast_dtype() == torch.float32 else {}
        return {name: times(result) for name, result in found.items()} | exact

    def exact(self, micro: int) -> dict[str, Any]:
        return differences(self.both(micro, "float32"))

    def both(self, micro: int, dtype: str | None) -> dict[str, dict[str, Any]]:
        sides = {"stock": micro, "ours": 16}
        return {name: run(name, self.model, self.prompt, rows, dtype=dtype) for name, rows in sides.items()}


def times(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("seconds", "sampling", "memory")}


def step_of(found: dict[str, Any]) -> float:
    return float(found["sampling"] + found["seconds"])


def differences(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How far losses and gradients are apart."""
    stock, ours = found["stock"], found["ours"]
    apart = float((ours["gradient"] - stock["gradient"]).norm() / stock["gradient"].norm())
    return {"loss_difference": abs(ours["loss"] - stock["loss"]), "gradient_difference": apart}


def compare(model: str, prompt: int, repeats: int) -> dict[str, float]:
    series = Turns(model, prompt)
    micro = series.fastest()
    turns = [series.entry(f"turn {number}", partial(series.turn, micro)) for number in range(repeats)]
    # Where fp32 is what is timed, a turn says it as well.
    exact = turns[0] if "gradient_difference" in turns[0] else series.entry("fp32", partial(series.exact, micro))
    table = {
        name: {key: statistics.median(turn[name][key] for turn in turns) for key in ("seconds", "sampling", "memory")}
        for name in ("stock", "ours")
    }
    print(f"4 prompts of {prompt} tokens, G = {GROUP}, {NEW} new tokens; stock in micro-batches of {micro}")
    print(f"{'':6} {'sampling s':>11} {'training s':>11} {'step s':>8} {'peak GiB':>9}")
    for name, row in table.items():
        print(f"{name:6} {row['sampling']:11.1f} {row['seconds']:11.1f} {step_of(row):8.1f} {row['memory']:9.1f}")

    return {
        "step": step_of(table["ours"]),
        "ratio": statistics.median(step_of(turn["stock"]) / step_of(turn["ours"]) for turn in turns),
        "loss_difference": exact["loss_difference"],
        "gradient_difference": exact["gradient_difference"],
        "memory_ratio": table["ours"]["memory"] / table["stock"]["memory"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", type=int, default=400)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--model", default="builtin:smollm2-135m-instruct")
    parser.add_argument("--group", type=int, default=GROUP)
    parser.add_argument("--side")
    parser.add_argument("--micro", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--beta", type=float, default=BETA)
    parser.add_argument("--equal", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1, help="the last one is timed")
    options = parser.parse_args()
    if options.side:
        side(options)
        return
    result = compare(options.model, options.prompt, options.repeats or (5 if options.prompt < 1000 else 3))
    print(json.dumps(result, indent=2))
    if max(result["gradient_difference"], result["loss_difference"]) > 1e-4:
        raise SystemExit("the two sides compute different things")
    command = f"python benchmarks/speed/grpo.py --prompt {options.prompt}"
    name = f"p{options.prompt}"
    claims.write(f"speed.grpo_ratio_{name}", round(result["ratio"], 2), "times stock TRL", command, [SEED])
    claims.write(f"speed.grpo_step_seconds_{name}", round(result["step"], 1), "s a step", command, [SEED])
    claims.write("speed.grpo_max_grad_difference", result["gradient_difference"], "relative, fp32", command, [SEED])
    claims.write("speed.grpo_memory_ratio", round(result["memory_ratio"], 2), "of stock's peak", command, [SEED])


if __name__ == "__main__":
    main()
