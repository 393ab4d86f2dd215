"""Is RL needed? Gold traces of the same questions, from the same start and with as many tokens, on a finished run.

    python benchmarks/control.py RUN        as runs/debian-0; goes on where it was interrupted

The main control of the biographies (`start_sft_comp` in `biographies/arms.py`) on any knowledge base: the same replay,
the same test questions. What it got right is kept in `control.json`, run by run, beside what the start and the policy
of the run did.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent / "biographies"))
import claims
from arms import KEPT, Arm, start_sft_comp
from debian import answers, on_unseen_bridges

from skillcompose.adapters import ATOMIC
from skillcompose.allocator import start_again
from skillcompose.evaluation.ladder import Prediction
from skillcompose.pipeline import load_recipe
from skillcompose.run import Run
from skillcompose.types import Level, Skill, read_json, read_jsonl, write_json

COMMAND = "python benchmarks/control.py RUN"
CONTROL = "start_sft_comp"
FILE = Path(__file__).parent / "control.json"


def measure(run: Run) -> dict[str, Any]:
    arm = Arm(CONTROL, load_recipe(run), run)
    _, adapter = start_sft_comp(arm)
    before = read_jsonl(run.require("evaluation") / "predictions.jsonl", Prediction)
    kept = [[getattr(p, column) for column in KEPT] for p in before if p.rung in (*ATOMIC, "start", "composed")]
    return {
        "recipe": arm.recipe.name,
        "seed": arm.seed,
        "tokens": arm.grpo_tokens(run.stage("composition")),
        "seconds": {
            CONTROL: read_json(adapter / "timing.json")["seconds"],
            "composed": read_json(run.stage("composition") / "timing.json")["grpo_seconds"],
        },
        "general": sum(arm.probe(adapter)),
        "columns": KEPT,
        "predictions": [*kept, *arm.asked(CONTROL, adapter)],
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
    rungs = (*ATOMIC, "start", "composed", CONTROL)
    print("| | " + " | ".join(rungs) + " |\n" + "|---" * (len(rungs) + 1) + "|")
    for what, part in parts.items():
        print(f"| {what} | " + " | ".join(cell(part, rung) for rung in rungs) + " |")


def main() -> None:
    start_again()
    found: dict[str, Any] = read_json(FILE) if FILE.is_file() else {}
    for folder in sys.argv[1:]:
        run = Run.open(Path(folder))
        record = found[run.folder.name] = measure(run)
        write_json(FILE, found)
        took = ", ".join(f"{rung} {seconds / 60:.1f} min" for rung, seconds in record["seconds"].items())
        print(f"{run.folder.name}: {record['tokens']} tokens, {took}, {record['general']} general questions")
        rows = answers([record])
        show(rows)
        new = on_unseen_bridges(rows)
        recipe, seeds = record["recipe"].removesuffix("-cpu"), [record["seed"]]
        value, interval = claims.score(new, [CONTROL])
        claims.write(f"{recipe}.{CONTROL}", round(value, 1), "% exact match", COMMAND, seeds, interval)
        value, interval = claims.score(new, ["composed", CONTROL])
        claims.write(f"{recipe}.gain_over_{CONTROL}", round(value, 1), "points", COMMAND, seeds, interval)


if __name__ == "__main__":
    main()
