"""Cost curves: seconds against prompt length, group size and number of facts, each beside what products alone take.

    python benchmarks/speed/curves.py        writes curves.json, curves.png and the claim `speed.limit_fraction_grpo`

The limit of a point is the floating-point work of its useful tokens (each prompt once, no padding; LoRA, attention and
the LM head counted; backwards without gradients of frozen weights) at the rate of a large bf16 product measured in the
same minute. The fraction of the limit that is reached says what a faster program could still gain. A profile of one
step says where the rest goes.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
import grpo
from stock import LORA, in_own_process

MODEL = "builtin:smollm2-135m-instruct"
PROMPTS, GROUPS, KNOWN = (100, 200, 400, 800, 1500), (4, 8, 16, 32), (20, 40, 80, 160)
REPEATS = 3
FOLDER = Path(__file__).parent


class Work:
    """Floating-point operations of one model with LoRA, per token."""

    def __init__(self, model: str) -> None:
        from transformers import AutoConfig

        from skillcompose.builtin import resolve

        c = AutoConfig.from_pretrained(resolve(model))
        head_width = c.hidden_size // c.num_attention_heads
        key_width = head_width * c.num_key_value_heads
        shapes = [(c.hidden_size, c.hidden_size)] * 2 + [(c.hidden_size, key_width)] * 2
        shapes += [(c.hidden_size, c.intermediate_size)] * 3
        self.base = 2 * c.num_hidden_layers * sum(a * b for a, b in shapes)
        self.lora = 2 * c.num_hidden_layers * LORA["r"] * sum(a + b for a, b in shapes)  # type: ignore[operator]
        self.head = 2 * c.hidden_size * c.vocab_size
        self.attention = 4 * c.num_hidden_layers * c.hidden_size  # per token that is seen

    def forward(self, tokens: int, seen: float, heads: int) -> float:
        return tokens * (self.base + self.lora + self.attention * seen) + heads * self.head

    def backward(self, tokens: int, seen: float, heads: int) -> float:
        return tokens * (self.base + 2 * self.lora + 2 * self.attention * seen) + heads * self.head

    def grpo_step(self, prompt: int, group: int) -> float:
        """Sampling, reference, and the policy forwards and backwards; prompts are computed once per pass."""
        prefix, answers = grpo.PROMPTS * prompt, grpo.PROMPTS * group * grpo.NEW
        inside = prompt + grpo.NEW / 2
        passes = [self.forward(prefix, prompt / 2, 0) + self.forward(answers, inside, answers)] * 3
        return sum(passes) + self.backward(prefix, prompt / 2, 0) + self.backward(answers, inside, answers)


def epoch(questions: Path, profile: bool = False) -> dict[str, Any]:
    """One pass over all parametric rows, as the recipe's batches; seconds, tokens, labelled tokens."""
    found: dict[str, Any] = json.loads(in_own_process(__file__, "--questions", questions, *["--profile"] * profile))
    return found


def train_epoch(questions: Path, profile: bool) -> None:
    """Runs in a process of its own."""
    import time

    import torch

    from skillcompose.adapters.sft import training_order
    from skillcompose.builtin import resolve
    from skillcompose.machine import matmul_rate
    from skillcompose.models import load_base, load_tokenizer, new_adapter
    from skillcompose.packing import by_passages, collate, packed
    from skillcompose.training import label_losses
    from skillcompose.types import Question, read_jsonl

    folder = resolve(MODEL)
    tokenizer = load_tokenizer(folder)
    groups = by_passages(read_jsonl(questions, Question))
    rows = training_order([packed(group, tokenizer) for group in groups], 1, 8, grpo.SEED)
    model = new_adapter(load_base(folder), LORA, grpo.SEED)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    batches = [collate(rows[i : i + 8]) for i in range(0, len(rows), 8)]

    def train(some: list[dict[str, torch.Tensor]]) -> float:
        begin = time.monotonic()
        for batch in some:
            label_losses(model, model, batch).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad()
        return time.monotonic() - begin

    train(batches[:2])
    result: dict[str, Any] = {"rate": matmul_rate(torch.bfloat16)}
    if profile:
        with torch.profiler.profile() as trace:
            wall = train(batches[:6])
        result["shares"] = shares(trace, wall)
    else:
        result["seconds"] = train(batches)
        result["tokens"] = sum(len(row["input_ids"]) for row in rows)
        result["labelled"] = sum(label >= 0 for row in rows for label in row["labels"])
    print(json.dumps(result))


KINDS = {
    "products": ("mm", "bmm", "addmm", "baddbmm", "mkldnn"),
    "softmax, log-softmax": ("softmax",),
    "copies and casts": ("copy_", "cat", "index", "clone", "fill", "zero", "gather", "scatter"),
    "optimiser": ("_foreach", "_fused", "optimizer"),
}


def shares(trace: Any, wall: float) -> dict[str, float]:
    """Of the wall time: kinds of operations by their own time; what no operation accounts for is Python."""
    spent = dict.fromkeys([*KINDS, "other elementwise"], 0.0)
    for event in trace.key_averages():
        own = event.self_cpu_time_total / 1e6 / wall
        kind = next((kind for kind, names in KINDS.items() if any(n in event.key for n in names)), "other elementwise")
        spent[kind] += own
    rounded = {kind: round(share, 3) for kind, share in spent.items()}
    return rounded | {"Python and the profiler": round(1 - sum(spent.values()), 3)}


def measure() -> dict[str, Any]:
    import torch

    import skillcompose
    from skillcompose.machine import matmul_rate

    work = Work(MODEL)
    curves: dict[str, list[dict[str, float]]] = {"prompt tokens": [], "group size": [], "known packages": []}
    points = [("prompt tokens", p, grpo.GROUP) for p in PROMPTS] + [("group size", 400, g) for g in GROUPS]
    for name, prompt, group in points:
        runs = [grpo.run("ours", MODEL, prompt, 2 * group, group) for _ in range(REPEATS)]
        limit = work.grpo_step(prompt, group) / matmul_rate(torch.bfloat16) / 1e9
        seconds = statistics.median(found["seconds"] + found["sampling"] for found in runs)
        curves[name].append({"at": prompt if name == "prompt tokens" else group, "seconds": seconds, "limit": limit})
        print(name, curves[name][-1], flush=True)
    source = claims.ROOT / "recipes" / "debian.yaml"
    with tempfile.TemporaryDirectory() as folder:
        for known in KNOWN:
            recipe = skillcompose.Recipe.from_yaml(source, {"facts.tables.owners.csv.limit": known})
            run = skillcompose.train(recipe, Path(folder) / str(known), until="questions")
            questions = run.stage("questions") / "parametric.train.jsonl"
            found = epoch(questions)
            seen, labelled = 20, found["labelled"]
            flops = work.forward(found["tokens"], seen, labelled) + work.backward(found["tokens"], seen, labelled)
            point = {"at": known, "seconds": found["seconds"], "limit": flops / found["rate"] / 1e9}
            curves["known packages"].append(point | {"tokens": found["tokens"]})
            print("known packages", curves["known packages"][-1], flush=True)
        profile = epoch(questions, profile=True)["shares"]
    return {"commit": claims.commit(), "machine": claims.machine(), "curves": curves, "profile": {"SFT": profile}}


def plot(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), layout="constrained")
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        for line, style in (("seconds", "o-"), ("limit", "s--")):
            axis.plot([p["at"] for p in points], [p[line] for p in points], style, label=line)
        axis.set(
            xlabel=name, ylabel="s an epoch of SFT" if name == "known packages" else "s a GRPO step", ylim=(0, None)
        )
        axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.questions:
        train_epoch(options.questions, options.profile)
        return
    found = measure()
    (FOLDER / "curves.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found["curves"], FOLDER / "curves.png")
    point = next(p for p in found["curves"]["prompt tokens"] if p["at"] == 400)
    claims.write(
        "speed.limit_fraction_grpo",
        round(point["limit"] / point["seconds"], 2),
        "of the products' rate",
        "python benchmarks/speed/curves.py",
        [grpo.SEED],
    )


if __name__ == "__main__":
    main()
