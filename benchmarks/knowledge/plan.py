"""Is the plan's time the real one? Predicted and real minutes of finished runs, by stage and in all.

    python benchmarks/knowledge/plan.py [RUN...]        the claim `knowledge.plan_worst_error`

The runs must have been trained on this machine, with all its cores. Each is predicted twice: as before its first stage
(rows estimated from the facts; what counts), and with the rows of its questions counted. What is found is kept in
`plan.json`, so that runs may be trained and compared one after another; the claim is for the worst there. `--scale`
multiplies what is predicted, to see how a run of another machine would compare; then nothing is kept.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

from skillcompose.pipeline import load_recipe
from skillcompose.planning import predict
from skillcompose.run import STAGE_NAMES, Run
from skillcompose.types import read_json, write_json

RUNS = [claims.ROOT / "runs" / name for name in ("quickstart", "debian-0", "biographies-0")]
COMMAND = "python benchmarks/knowledge/plan.py"
FILE = Path(__file__).parent / "plan.json"


def predicted(run: Run) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by stage, before anything has run and with the questions counted."""
    recipe = load_recipe(run)
    with tempfile.TemporaryDirectory() as empty:
        both = predict(recipe, Run(empty), counted=False), predict(recipe, run, counted=True)
    if both[0].unknown:
        raise SystemExit(both[0].unknown)
    before, counted = ({name: cost.seconds or 0.0 for name, cost in found.costs.items()} for found in both)
    return before, counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, default=RUNS)
    parser.add_argument("--scale", type=float)
    options = parser.parse_args()
    kept: dict[str, Any] = read_json(FILE) if FILE.is_file() else {}
    print("| run | stage | predicted min | with questions counted | real min | error |\n|---|---|---|---|---|---|")
    for folder in options.runs:
        run = Run(folder)
        records = {name: run.record(name) for name in STAGE_NAMES}
        if not all(records.values()):
            print(f"| {folder.name} | not finished | | | | |")
            continue
        before, counted = predicted(run)
        real = {name: float(record["seconds"]) for name, record in records.items() if record}
        scale = options.scale or 1.0
        rows = [(name, before[name], counted[name], real[name]) for name in STAGE_NAMES]
        rows.append(("in all", sum(before.values()), sum(counted.values()), sum(real.values())))
        for name, first, second, took in rows:
            first, second = first * scale, second * scale
            error = f"{100 * (first - took) / took:+.0f} %" if took > 5 else ""
            print(f"| {folder.name} | {name} | {first / 60:.1f} | {second / 60:.1f} | {took / 60:.1f} | {error} |")
        kept[folder.name] = {
            "error": round(100 * (first - took) / took, 1),
            "minutes": {name: [round(found / 60, 2) for found in minutes] for name, *minutes in rows},
            "commit": claims.commit(),
            "machine": claims.machine(),
        }
    if kept and options.scale is None:
        write_json(FILE, kept)
        worst = max(kept, key=lambda name: abs(kept[name]["error"]))
        unit = f"% of a run's minutes, {worst}, worst of {len(kept)}"
        claims.write("knowledge.plan_worst_error", abs(kept[worst]["error"]), unit, COMMAND, [0])


if __name__ == "__main__":
    main()
