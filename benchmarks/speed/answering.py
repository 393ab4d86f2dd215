"""The demo's evaluation, against one question at a time and against batches through `generate`.

    python benchmarks/speed/answering.py        the claims `speed.evaluation_*`; needs the demo's finished run

More than an hour; each turn is kept in answering.json, which is about one run: with another one it is to be removed.

All answer with the same adapters, rung by rung of the ladder. In fp32 the answers to every fourth prompt of a rung must
be identical on all three sides; then all prompts are timed. One at a time an answer takes as long among few as among
many, so every fourth is timed there, and counts as four. Stock has each adapter merged before the clock starts, and is
in fp32 or in bf16, whichever is faster (in fp32 where the processor has no bf16). `batches` are 16 left-padded prompts
of similar length of one rung.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
from stock import Series, in_own_process

from skillcompose.types import read_json, write_json

BATCH, EVERY = 16, 4
SIDES = ("single", "batches", "ours")
Rung = tuple[str, str | None, list[str], bool]
"""Its name, its adapter, the prompts, whether the first line is all that is wanted."""


def record(run: Path) -> list[Rung]:
    """What the evaluation of a finished run asks."""
    from skillcompose.evaluation.ladder import Ladder
    from skillcompose.generation import Written

    found: list[Rung] = []

    class Recorded(Ladder):
        def _answer(self, rung: str, adapter: str | None, prompts: list[str], line: bool = False) -> list[Written]:
            found.append((rung, adapter, prompts, line))
            return super()._answer(rung, adapter, prompts, line)

    with tempfile.TemporaryDirectory() as scratch:
        Recorded(work_of(run, Path(scratch))).climb()
    return found


def work_of(run: Path, folder: Path) -> Any:
    """Answers are kept in `folder`: in a new one all are given anew."""
    from skillcompose.pipeline import load_recipe
    from skillcompose.progress import Progress
    from skillcompose.run import Run
    from skillcompose.stages import Work

    opened = Run.open(run)
    return Work(load_recipe(opened), folder, opened, Progress())


def ours(run: Path, asked: list[Rung]) -> tuple[float, list[list[str]]]:
    from skillcompose.evaluation.ladder import Ladder

    with tempfile.TemporaryDirectory() as scratch:
        ladder = Ladder(work_of(run, Path(scratch)))
        begin = time.monotonic()
        texts = [[said.text for said in ladder._answer(*rung)] for rung in asked]
        return time.monotonic() - begin, texts


def stock(run: Path, asked: list[Rung], size: int) -> tuple[float, list[list[str]]]:
    """`generate` for so many prompts of similar length at once."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from skillcompose.builtin import resolve
    from skillcompose.machine import fast_dtype
    from skillcompose.models import load_tokenizer, quiet_libraries
    from skillcompose.pipeline import load_recipe
    from skillcompose.run import Run

    quiet_libraries()
    recipe = load_recipe(Run.open(run))
    folder = resolve(recipe.model)
    tokenizer = load_tokenizer(folder)
    composition, adapters = run / "06-composition", run / "05-adapters"
    places = {name: composition / name for name in ("composed", "start", "traced")}
    places["exact_sum"] = composition / "merged"
    (line_break,) = tokenizer("\n", add_special_tokens=False).input_ids
    seconds, texts = 0.0, []
    for _, adapter, prompts, line in asked:
        ends = [tokenizer.eos_token_id, *[line_break] * line]
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=fast_dtype())
        if adapter:
            model = PeftModel.from_pretrained(model, places.get(adapter, adapters / adapter)).merge_and_unload()
        begin = time.monotonic()
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found = dict[int, str]()
        for i in range(0, len(order), size):
            chosen = order[i : i + size]
            batch = tokenizer(
                [prompts[row] for row in chosen],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            )
            with torch.no_grad():
                rows = model.generate(
                    **batch,
                    max_new_tokens=recipe.max_new_tokens,
                    do_sample=False,
                    eos_token_id=ends,
                    pad_token_id=tokenizer.pad_token_id,
                )
            decoded = tokenizer.batch_decode(rows[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
            whole = [text.strip() if not line or "\n" in text else "" for text in decoded]
            found |= zip(chosen, whole, strict=True)
        seconds += time.monotonic() - begin
        texts.append([found[i] for i in range(len(prompts))])
    return seconds, texts


def side(name: str, run: Path, asked: list[Rung]) -> None:
    """Runs in a process of its own; prints seconds and answers as JSON."""
    seconds, answers = ours(run, asked) if name == "ours" else stock(run, asked, BATCH if name == "batches" else 1)
    print(json.dumps({"seconds": seconds, "answers": answers}))


def measure(name: str, run: Path, asked: Path, dtype: str | None = None) -> dict[str, Any]:
    given = ["--side", name, "--run", run, "--asked", asked]
    found: dict[str, Any] = json.loads(in_own_process(__file__, *given, dtype=dtype))
    return found


class Turns(Series):
    """All sides in turn, about the same prompts."""

    def __init__(self, run: Path, folder: Path) -> None:
        super().__init__("answering")
        self.run, self.every, self.some = run, folder / "every.json", folder / "some.json"
        asked = record(run)
        write_json(self.every, asked)
        write_json(self.some, [(rung, adapter, prompts[::EVERY], line) for rung, adapter, prompts, line in asked])
        self.count, self.fewer = (
            sum(len(prompts) for _, _, prompts, _ in read_json(f)) for f in (self.every, self.some)
        )

    def exact(self) -> dict[str, Any]:
        """Seconds of each side in fp32, in which all have to give the same answers."""
        found = {name: measure(name, self.run, self.some, "float32") for name in SIDES}
        for name in SIDES[:-1]:
            pairs = zip(found[name]["answers"], found["ours"]["answers"], strict=True)
            differing = sum(a != b for one, other in pairs for a, b in zip(one, other, strict=True))
            if differing:
                raise SystemExit(f"{differing} of {self.fewer} answers differ from {name} in fp32")
        return {name: found[name]["seconds"] for name in SIDES}

    def bf16(self) -> dict[str, Any]:
        return {name: measure(name, self.run, self.some, "bfloat16")["seconds"] for name in SIDES[:-1]}

    def turn(self, dtypes: dict[str, str]) -> dict[str, Any]:
        one = measure("single", self.run, self.some, dtypes["single"])["seconds"] * self.count / self.fewer
        many = measure("batches", self.run, self.every, dtypes["batches"])["seconds"]
        return {"single": one, "batches": many, "ours": measure("ours", self.run, self.every)["seconds"]}


def compare(run: Path, repeats: int) -> None:
    import torch

    from skillcompose.machine import fast_dtype

    with tempfile.TemporaryDirectory() as folder:
        series = Turns(run, Path(folder))
        trials = {"float32": series.entry("fp32", series.exact)}
        if fast_dtype() != torch.float32:
            trials["bfloat16"] = series.entry("bf16", series.bf16)
        dtypes = {name: min(trials, key=lambda dtype: float(trials[dtype][name])) for name in SIDES[:-1]}
        turns = [series.entry(f"turn {number}", partial(series.turn, dtypes)) for number in range(repeats)]
    medians = {name: statistics.median(turn[name] for turn in turns) for name in SIDES}
    print(f"{series.count} answers: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in medians.items()))
    for claim, name, unit in (
        ("speed.evaluation_ratio", "single", "times one at a time"),
        ("speed.evaluation_ratio_batches", "batches", "times batches of 16"),
    ):
        ratio = statistics.median(turn[name] / turn["ours"] for turn in turns)
        claims.write(claim, round(ratio, 2), unit, "python benchmarks/speed/answering.py", [0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=claims.ROOT / "runs" / "quickstart")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--asked", type=Path)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.run, read_json(options.asked))
    else:
        compare(options.run, options.repeats)


if __name__ == "__main__":
    main()
