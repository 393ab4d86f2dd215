"""How well must each skill be mastered before RL? Biographies, one skill half-trained or missing, the other whole.

    python benchmarks/diagnosis/prerequisite.py        the next unfinished point; a broken one is resumed

A point's adapter is trained for a share of its steps, and nothing after teaches its skill: neither consolidation nor
replay has rows of it. Everything else is as in the recipe. Each point is an entry of `prerequisite.json`: mastery of
its start, and exact match of start and composed policy on unseen bridges; the plot is drawn when all are there.

RL is fifteen steps here, a third of the recipe's: the whole recipe had 31 of its 39 points of validation by then.
Where no sample of theirs is right there is nothing to learn from: the composed policy is the start then.
"""

import logging
import math
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "biographies"))
import claims
from arms import KEPT, Arm

import skillcompose
from skillcompose.adapters import ATOMIC
from skillcompose.allocator import start_again
from skillcompose.errors import TrainingError
from skillcompose.evaluation.ladder import Prediction
from skillcompose.run import STAGE_NAMES, Run
from skillcompose.types import Skill, read_json, read_jsonl, write_json

RECIPE = claims.ROOT / "recipes" / "biographies-cpu.yaml"
WHOLE = claims.ROOT / "runs" / "biographies-0"
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
FILE = Path(__file__).parent / "prerequisite.json"
# Enough to tell a level from the next.
FEWER = {
    "composition.grpo.max_steps": 15,
    "evaluation.questions": 60,
    "evaluation.ladder": 1,
    "evaluation.atomic": 1,
}


def main() -> None:
    start_again()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    done: list[dict[str, Any]] = read_json(FILE) if FILE.is_file() else []
    left = [
        (skill, share)
        for share in SHARES
        for skill in ATOMIC
        if not any(point["skill"] == skill and point["share"] == share for point in done)
    ]
    if left:
        done.append(measure(*left[0]))
        write_json(FILE, done)
        print(done[-1])
    if len(left) <= 1:
        plot(done)


def measure(skill: Skill, share: float) -> dict[str, Any]:
    whole = skillcompose.train(skillcompose.Recipe.from_yaml(RECIPE), WHOLE, until="adapters", allow_unmastered=True)
    folder = WHOLE.with_name(f"{WHOLE.name}-{skill}-{share:g}")
    if not folder.is_dir():
        # Copied aside and renamed: half a stage with its `stage.json` looks finished.
        aside = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        for stage in STAGE_NAMES[: STAGE_NAMES.index("adapters") + 1]:
            shutil.copytree(whole.stage(stage), aside / whole.stage(stage).name)
        aside.rename(folder)
    overrides: dict[str, Any] = {"composition.ablate": str(skill)} | FEWER
    if share == 0:
        overrides["composition.weights"] = [float(other != skill) for other in ATOMIC]
    elif share < 1:
        overrides[f"adapters.{skill}.sft.max_steps"] = math.ceil(share * steps(whole, skill))
    recipe, run, failure = skillcompose.Recipe.from_yaml(RECIPE, overrides), Run(folder), None
    try:
        skillcompose.train(recipe, folder, allow_unmastered=True)
    except TrainingError as error:
        failure = str(error)
        asked = Arm("start", recipe, run).asked("start", run.stage("composition") / "start")
    else:
        found = read_jsonl(run.stage("evaluation") / "predictions.jsonl", Prediction)
        asked = [[getattr(prediction, column) for column in KEPT] for prediction in found]
    rows = [dict(zip(KEPT, row, strict=True)) | {"seed": 0} for row in asked]
    rows = [row for row in rows if row["skill"] == Skill.COMPLEMENTARY and not row["seen"]]
    scores = {rung: claims.score(rows, ["start" if failure else rung]) for rung in ("start", "composed")}
    return {
        "skill": skill,
        "share": share,
        "mastery": read_json(run.stage("composition") / "mastery.json"),
        **{rung: {"macro": value, "interval": interval} for rung, (value, interval) in scores.items()},
        "failure": failure,
        "commit": claims.commit(),
        "machine": claims.machine(),
    }


def steps(run: Run, skill: Skill) -> int:
    """How many the whole adapter took."""
    return int(read_json(run.stage("adapters") / skill / "training.json")["history"][-1]["step"])


def mastery(point: dict[str, Any]) -> float:
    """Of its skill, one and two hops, in percent."""
    asked = point["mastery"][point["skill"]]
    return 100 * sum(row["correct"] for row in asked) / sum(row["asked"] for row in asked)


def plot(points: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(ATOMIC), figsize=(8, 3.4), sharey=True, layout="constrained")
    for axis, skill in zip(axes, ATOMIC, strict=True):
        own = sorted((p for p in points if p["skill"] == skill), key=mastery)
        for rung in ("start", "composed"):
            middle, ends = [p[rung]["macro"] for p in own], [p[rung]["interval"] for p in own]
            # A macro-average's bootstrap need not hold its centre.
            errors = [[max(0, m - low) for m, (low, _) in zip(middle, ends, strict=True)]]
            errors.append([max(0, high - m) for m, (_, high) in zip(middle, ends, strict=True)])
            axis.errorbar([mastery(p) for p in own], middle, errors, marker="o", capsize=3, label=rung)
        axis.set(xlabel=f"{skill} skill before RL, %", ylabel="unseen bridges, %", ylim=(0, 100))
        axis.legend()
    figure.savefig(FILE.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
