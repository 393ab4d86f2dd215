"""Is RL needed, and is it enough? Other ways to train from the start of a finished run, with as many tokens.

    python benchmarks/control.py RUN        as runs/debian-0; goes on where it was interrupted

Two arms of the biographies (`biographies/arms.py`) on any knowledge base: gold traces of the same questions and no RL
(`start_sft_comp`, the main control), and RL without gold traces before it (`rl_alone`). The same replay, the same test
questions. What each got right is kept in `control.json`, run by run, beside what the start and the policy of the run
did; an arm that is there is not trained again. Claims are over all runs of a recipe that have the arm.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent / "biographies"))
import claims
from arm import KEPT, Arm
from arms import ARMS
from debian import answers, on_unseen_bridges

from skillcompose.adapters import ATOMIC
from skillcompose.allocator import start_again
from skillcompose.evaluation.ladder import Prediction
from skillcompose.pipeline import load_recipe
from skillcompose.run import Run
from skillcompose.types import Level, Skill, read_json, read_jsonl, write_json

COMMAND = "python benchmarks/control.py RUN"
CONTROLS = ("start_sft_comp", "rl_alone")
FILE = Path(__file__).parent / "control.json"


def policy(run: Run) -> dict[str, Any]:
    """What the arms are compared with, without their own entries."""
    recipe, composition = load_recipe(run), run.stage("composition")
    before = read_jsonl(run.require("evaluation") / "predictions.jsonl", Prediction)
    kept = [[getattr(p, column) for column in KEPT] for p in before if p.rung in (*ATOMIC, "start", "composed")]
    seconds = read_json(composition / "timing.json")["grpo_seconds"]
    if (composition / "traced").is_dir():
        seconds += read_json(composition / "traced" / "timing.json")["seconds"]
    return {"recipe": recipe.name, "seed": recipe.seed, "columns": KEPT, "predictions": kept, "seconds": seconds}


def measure(name: str, run: Run) -> dict[str, Any]:
    arm = Arm(name, load_recipe(run), run)
    before = arm.atomic_tokens()
    tokens, adapter = ARMS[name](arm)
    timings = [read_json(path) for path in sorted(arm.work.folder.rglob("timing.json"))]
    return {
        "tokens": tokens - before,
        # Of the last process alone, where a training was interrupted.
        "seconds": sum(spent for timing in timings for what, spent in timing.items() if what != "tokens"),
        "general": sum(arm.probe(adapter)),
        "predictions": arm.asked(name, adapter),
        "commit": claims.commit(),
        "machine": claims.machine(),
    }


def cell(rows: list[dict[str, Any]], rung: str) -> str:
    own = [row["correct"] for row in rows if row["rung"] == rung]
    return f"{sum(own)} of {len(own)}" if own else ""


def show(rows: list[dict[str, Any]]) -> None:
    new = on_unseen_bridges(rows)
    parts = {f"unseen, {level}": [r for r in new if r["level"] == level] for level in Level}
    parts |= {"seen": [r for r in rows if r["skill"] == Skill.COMPLEMENTARY and r["seen"]]}
    parts |= {
        f"{s}, {hops} hops": [r for r in rows if r["skill"] == s and r["hops"] == hops]
        for s in ATOMIC
        for hops in (1, 2)
    }
    rungs = (*ATOMIC, "start", "composed", *CONTROLS)
    print("| | " + " | ".join(rungs) + " |\n" + "|---" * (len(rungs) + 1) + "|")
    for what, part in parts.items():
        print(f"| {what} | " + " | ".join(cell(part, rung) for rung in rungs) + " |")


def main() -> None:
    start_again()
    found: dict[str, Any] = read_json(FILE) if FILE.is_file() else {}
    for folder in sys.argv[1:]:
        run = Run.open(Path(folder))
        arms = found.get(run.folder.name, {}).get("arms", {})
        record = found[run.folder.name] = policy(run) | {"arms": arms}
        for name in CONTROLS:
            if name not in arms:
                arms[name] = measure(name, run)
                write_json(FILE, found)
        print(f"{run.folder.name}: composing took {record['seconds'] / 60:.1f} min")
        for name, own in arms.items():
            print(f"{name}: {own['tokens']} tokens, {own['seconds'] / 60:.1f} min, {own['general']} general questions")
        show(answers([whole(record)]))
    for recipe in sorted({record["recipe"] for record in found.values()}):
        write_claims(recipe.removesuffix("-cpu"), [record for record in found.values() if record["recipe"] == recipe])


def whole(record: dict[str, Any]) -> dict[str, Any]:
    """With the arms' answers beside those of the run."""
    own = (row for arm in record["arms"].values() for row in arm["predictions"])
    return record | {"predictions": [*record["predictions"], *own]}


def write_claims(recipe: str, records: list[dict[str, Any]]) -> None:
    """Over the seeds that have an arm."""
    for name in CONTROLS:
        having = [record for record in records if name in record["arms"]]
        if not having:
            continue
        seeds, new = [record["seed"] for record in having], on_unseen_bridges(answers(list(map(whole, having))))
        zero_shot = [row for row in new if row["level"] == Level.ZERO_SHOT]
        value, interval = claims.score(new, [name])
        claims.write(f"{recipe}.{name}", round(value, 1), "% exact match", COMMAND, seeds, interval)
        value, interval = claims.score(new, ["composed", name])
        claims.write(f"{recipe}.gain_over_{name}", round(value, 1), "points", COMMAND, seeds, interval)
        value, interval = claims.score(zero_shot, ["composed", name])
        claims.write(f"{recipe}.gain_over_{name}.zero_shot", round(value, 1), "points", COMMAND, seeds, interval)


if __name__ == "__main__":
    main()
