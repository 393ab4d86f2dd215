"""Cost curves: seconds against prompt length, group size and number of facts, each beside what products alone take.

    python benchmarks/speed/curves.py        writes curves.json, curves.png and the claim `speed.limit_fraction_grpo`

The limit of a point is the floating-point work of its useful tokens (each prompt once, no padding; LoRA, attention and
the LM head counted; backwards without gradients of frozen weights) at the rate of a large product measured in the same
minute, in the dtype that is faster here. The fraction of the limit that is reached says what a faster program could
still gain. Profiles of a step of GRPO and of steps of SFT say where the rest goes.
"""

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
import grpo
from stock import LORA, Series, in_own_process, shares

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
    """One pass over all parametric rows, as the recipe's batches; seconds, tokens, labelled tokens. Or a profile."""
    found: dict[str, Any] = json.loads(in_own_process(__file__, "--questions", questions, *["--profile"] * profile))
    return found


def train_epoch(questions: Path, profile: bool) -> None:
    """Runs in a process of its own."""
    import time

    import torch

    from skillcompose.adapters.sft import training_order
    from skillcompose.builtin import resolve
    from skillcompose.models import load_base, load_tokenizer, new_adapter
    from skillcompose.packing import by_passages, collate, packed
    from skillcompose.training import label_losses
    from skillcompose.types import Question, read_jsonl

    folder = resolve(MODEL)
    tokenizer = load_tokenizer(folder)
    groups = by_passages([row for row in read_jsonl(questions, Question) if not row.named])
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
    result: dict[str, Any]
    if profile:
        with torch.profiler.profile() as trace:
            wall = train(batches[:6])
        result = shares(trace, wall)
    else:
        tokens = sum(len(row["input_ids"]) for row in rows)
        labelled = sum(label >= 0 for row in rows for label in row["labels"])
        result = {"rate": rate(), "seconds": train(batches), "tokens": tokens, "labelled": labelled}
    print(json.dumps(result))


class Curves(Series):
    def __init__(self) -> None:
        super().__init__("curves")
        self.work = Work(MODEL)

    def grpo_point(self, prompt: int, group: int) -> dict[str, Any]:
        runs = [grpo.run("ours", MODEL, prompt, 2 * group, group) for _ in range(REPEATS)]
        limit = self.work.grpo_step(prompt, group) / rate() / 1e9
        return {"seconds": statistics.median(found["seconds"] + found["sampling"] for found in runs), "limit": limit}

    def epoch_point(self, known: int, folder: Path) -> dict[str, Any]:
        found = epoch(rows_about(known, folder))
        tokens, labelled, seen = found["tokens"], found["labelled"], 20
        flops = self.work.forward(tokens, seen, labelled) + self.work.backward(tokens, seen, labelled)
        return {"seconds": found["seconds"], "limit": flops / found["rate"] / 1e9, "tokens": tokens}

    def measure(self) -> dict[str, list[dict[str, Any]]]:
        """Every point; those that are in the file are not measured again."""
        lengths = [{"at": p} | self.entry(f"prompt {p}", partial(self.grpo_point, p, grpo.GROUP)) for p in PROMPTS]
        groups = [{"at": g} | self.entry(f"group {g}", partial(self.grpo_point, 400, g)) for g in GROUPS]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            known = [{"at": k} | self.entry(f"known {k}", partial(self.epoch_point, k, folder)) for k in KNOWN]
            self.entry("profile SFT", lambda: epoch(rows_about(KNOWN[0], folder), profile=True))
        self.entry("profile GRPO", lambda: grpo.run("ours", MODEL, 400, 16, profile=True)["shares"])
        return {"prompt tokens": lengths, "group size": groups, "known packages": known}


def rate() -> float:
    from skillcompose.machine import fast_dtype, matmul_rate, use_cores

    use_cores()
    return matmul_rate(fast_dtype())


def rows_about(known: int, folder: Path) -> Path:
    """The parametric rows of the Debian recipe with so many known packages."""
    import skillcompose

    source = claims.ROOT / "recipes" / "debian.yaml"
    tables = {"owners.csv": {"key": "package", "limit": known}, "packages.csv": {"key": "package"}}
    recipe = skillcompose.Recipe.from_yaml(source, {"facts.tables": tables})
    run = skillcompose.train(recipe, folder / str(known), until="questions")
    return run.stage("questions") / "parametric.train.jsonl"


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
    curves = Curves().measure()
    plot(curves, FOLDER / "curves.png")
    point = next(p for p in curves["prompt tokens"] if p["at"] == 400)
    claims.write(
        claims.by_dtype("speed.limit_fraction_grpo"),
        round(point["limit"] / point["seconds"], 2),
        "of the products' rate",
        "python benchmarks/speed/curves.py",
        [grpo.SEED],
    )


if __name__ == "__main__":
    main()
