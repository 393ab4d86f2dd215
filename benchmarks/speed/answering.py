"""The demo's evaluation, against one question at a time and against batches through `generate`.

    python benchmarks/speed/answering.py        the claims `speed.evaluation_*`; needs the demo's finished run

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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
from stock import in_own_process

from skillcompose.types import read_json, write_json

BATCH, EVERY = 16, 4
SIDES = ("single", "batches", "ours")
Rung = tuple[str, str | None, list[str]]
"""Its name, its adapter, the prompts."""


def record(run: Path) -> list[Rung]:
    """What the evaluation of a finished run asks."""
    from skillcompose.evaluation.ladder import Ladder
    from skillcompose.generation import Written

    found: list[Rung] = []

    class Recorded(Ladder):
        def _answer(self, rung: str, adapter: str | None, prompts: list[str]) -> list[Written]:
            found.append((rung, adapter, prompts))
            return super()._answer(rung, adapter, prompts)

    Recorded(work_of(run)).climb()
    return found


def work_of(run: Path) -> Any:
    from skillcompose.pipeline import load_recipe
    from skillcompose.progress import Progress
    from skillcompose.run import Run
    from skillcompose.stages import Work

    opened = Run.open(run)
    return Work(load_recipe(opened), run, opened, Progress())


def ours(run: Path, asked: list[Rung]) -> tuple[float, list[list[str]]]:
    from skillcompose.evaluation.ladder import Ladder

    ladder = Ladder(work_of(run))
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

    quiet_libraries()
    recipe = work_of(run).recipe
    folder = resolve(recipe.model)
    tokenizer = load_tokenizer(folder)
    composition, adapters = run / "06-composition", run / "05-adapters"
    places = {name: composition / name for name in ("composed", "start", "traced")}
    places["exact_sum"] = composition / "merged"
    seconds, texts = 0.0, []
    for _, adapter, prompts in asked:
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
                    **batch, max_new_tokens=recipe.max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
                )
            decoded = tokenizer.batch_decode(rows[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
            found |= zip(chosen, map(str.strip, decoded), strict=True)
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


def main() -> None:
    import torch

    from skillcompose.machine import fast_dtype

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=claims.ROOT / "runs" / "quickstart")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--asked", type=Path)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.run, read_json(options.asked))
        return
    with tempfile.TemporaryDirectory() as folder:
        every, some = Path(folder) / "every.json", Path(folder) / "some.json"
        asked = record(options.run)
        write_json(every, asked)
        write_json(some, [(rung, adapter, prompts[::EVERY]) for rung, adapter, prompts in asked])
        count, fewer = (sum(len(prompts) for *_, prompts in read_json(file)) for file in (every, some))
        exact = {name: measure(name, options.run, some, "float32") for name in SIDES}
        for name in SIDES[:-1]:
            pairs = zip(exact[name]["answers"], exact["ours"]["answers"], strict=True)
            differing = sum(a != b for one, other in pairs for a, b in zip(one, other, strict=True))
            if differing:
                raise SystemExit(f"{differing} of {fewer} answers differ from {name} in fp32")
        faster: dict[str, str | None] = {"ours": None}
        for name in SIDES[:-1]:
            trials = {"float32": exact[name]["seconds"]}
            if fast_dtype() != torch.float32:
                trials["bfloat16"] = measure(name, options.run, some, "bfloat16")["seconds"]
            faster[name] = min(trials, key=trials.__getitem__)
            print(f"{name}: {', '.join(f'{dtype} {seconds:.1f} s' for dtype, seconds in trials.items())}", flush=True)
        turns: list[list[float]] = []
        for _ in range(options.repeats):
            one = measure("single", options.run, some, faster["single"])["seconds"] * count / fewer
            turns.append([one, *(measure(name, options.run, every, faster[name])["seconds"] for name in SIDES[1:])])
            print([round(seconds, 1) for seconds in turns[-1]], flush=True)
            single, batches, own = (statistics.median(times) for times in zip(*turns, strict=True))
            command = "python benchmarks/speed/answering.py"
            claims.write("speed.evaluation_ratio", round(single / own, 2), "times one at a time", command, [0])
            claims.write("speed.evaluation_ratio_batches", round(batches / own, 2), "times batches of 16", command, [0])
    print(f"{count} answers: one at a time {single:.1f} s, batches {batches:.1f} s, ours {own:.1f} s")


if __name__ == "__main__":
    main()
