"""How well must each skill be mastered before RL? Biographies, one skill taught too little or not at all.

    python benchmarks/diagnosis/prerequisite.py [SKILL]        the next point, of this skill (or `both`) if named

The parametric skill is taught by a share of its adapter's steps, the contextual one from a share of its rows; with
share 0 nothing teaches the skill, neither adapter nor consolidation nor replay. What a point's policy knew before RL
is measured, whatever it was taught. Everything else is alike for all points: a third of the recipe's consolidation, ten
steps of RL, which are fewer than in the recipe. Each point is an entry of `prerequisite.json`: mastery of its start,
and exact match of start and composed policy on unseen bridges; the plot is drawn when all are there. Where no sample
is right there is nothing to learn from: the composed policy is the start then.

Two points at once, with half of the cores each: `both` first, then one call for each skill with `OMP_NUM_THREADS` set.
"""

import logging
import math
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "biographies"))
import claims
from arm import KEPT, Arm

import skillcompose
from skillcompose.adapters import ATOMIC
from skillcompose.allocator import start_again
from skillcompose.errors import TrainingError
from skillcompose.evaluation.ladder import TestSet, judged
from skillcompose.metrics import exact_match
from skillcompose.run import STAGE_NAMES, Run
from skillcompose.types import Skill, read_json, write_json

RECIPE = claims.ROOT / "recipes" / "biographies-cpu.yaml"
WHOLE = claims.ROOT / "runs" / "biographies-0"
FILE = Path(__file__).parent / "prerequisite.json"
BOTH = "both"  # skills whole: the end of both curves
# The ends of the curves first, so that an unfinished series has them. Facts come late in training, reading early.
SHARES = {Skill.PARAMETRIC: (0.0, 0.25, 0.1, 0.5, 0.75), Skill.CONTEXTUAL: (0.0, 0.25, 0.1, 0.02)}
POINTS = [(BOTH, 1.0), *((skill, share) for skill, shares in SHARES.items() for share in shares)]
# Enough to tell a level from the next.
FEWER: dict[str, Any] = {
    "composition.consolidation.rows": 480,
    "composition.traces": None,
    "composition.grpo.max_steps": 10,
    "composition.ema_decay": 0.8,
    "composition.validation": 40,
    "composition.probes": 0,
    "evaluation.questions": 60,
}


def main() -> None:
    start_again()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    left = [point for point in POINTS if not any((p["skill"], p["share"]) == point for p in measured())]
    named = [point for point in left if point[0] in (sys.argv[1:] or [BOTH, *ATOMIC])]
    if named:
        found = measure(*named[0])
        write_json(FILE, [*measured(), found])  # read again: the other skill's call may have written
        print(found)
    if len(measured()) == len(POINTS):
        plot(measured())


def measured() -> list[dict[str, Any]]:
    return read_json(FILE) if FILE.is_file() else []


def measure(skill: str, share: float) -> dict[str, Any]:
    whole = skillcompose.train(skillcompose.Recipe.from_yaml(RECIPE), WHOLE, until="adapters", allow_unmastered=True)
    folder = WHOLE.with_name(f"{WHOLE.name}-{skill}-{share:g}")
    if not folder.is_dir():
        # Copied aside and renamed: half a stage with its `stage.json` looks finished.
        aside = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        for stage in STAGE_NAMES[: STAGE_NAMES.index("adapters") + 1]:
            shutil.copytree(whole.stage(stage), aside / whole.stage(stage).name)
        aside.rename(folder)
    recipe = skillcompose.Recipe.from_yaml(RECIPE, FEWER | taught(skill, share, whole))
    run, failure = Run(folder), None
    try:
        skillcompose.train(recipe, folder, until="composition", allow_unmastered=True)
    except TrainingError as error:
        failure = str(error)
    arm, composition = Arm("asked", recipe, run), run.stage("composition")
    rows = asked(arm, "start", composition / "start")
    rows += asked(arm, "composed", composition / ("start" if failure else "composed"))
    scores = {rung: claims.score(rows, [rung]) for rung in ("start", "composed")}
    return {
        "skill": skill,
        "share": share,
        "mastery": read_json(composition / "mastery.json"),
        **{rung: {"macro": value, "interval": interval} for rung, (value, interval) in scores.items()},
        "failure": failure,
        "commit": claims.commit(),
        "machine": claims.machine(),
    }


def taught(skill: str, share: float, whole: Run) -> dict[str, Any]:
    """What a recipe has to say for so much of a skill."""
    if share == 0:
        return {"composition.ablate": skill, "composition.weights": [float(other != skill) for other in ATOMIC]}
    if skill == Skill.PARAMETRIC:
        steps = read_json(whole.stage("adapters") / skill / "training.json")["history"][-1]["step"]
        return {f"adapters.{skill}.sft.max_steps": math.ceil(share * steps)}
    if skill == Skill.CONTEXTUAL:
        rows = skillcompose.Recipe.from_yaml(RECIPE).questions.contextual_rows
        return {"questions.contextual_rows": math.ceil(share * rows)}
    return {}


def asked(arm: Arm, rung: str, adapter: Path) -> list[dict[str, Any]]:
    """What is right of the test questions on unseen bridges."""
    questions = TestSet(arm.work).headline
    texts = arm.answered(adapter, questions, rung)
    found = [judged(rung, q, text, exact_match(text, q.answers)) for q, text in zip(questions, texts, strict=True)]
    return [{column: getattr(prediction, column) for column in KEPT} | {"seed": arm.seed} for prediction in found]


def mastery(point: dict[str, Any], skill: str) -> float:
    """One and two hops, in percent."""
    rows = point["mastery"][skill]
    return 100 * sum(row["correct"] for row in rows) / sum(row["asked"] for row in rows)


def plot(points: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(ATOMIC), figsize=(8, 3.4), sharey=True, layout="constrained")
    for axis, skill in zip(axes, ATOMIC, strict=True):
        own = sorted((p for p in points if p["skill"] in (skill, BOTH)), key=partial(mastery, skill=skill))
        known = [mastery(p, skill) for p in own]
        for rung in ("start", "composed"):
            middle, ends = [p[rung]["macro"] for p in own], [p[rung]["interval"] for p in own]
            # A macro-average's bootstrap need not hold its centre.
            errors = [[max(0, m - low) for m, (low, _) in zip(middle, ends, strict=True)]]
            errors.append([max(0, high - m) for m, (_, high) in zip(middle, ends, strict=True)])
            axis.errorbar(known, middle, errors, marker="o", capsize=3, label=rung)
        axis.set(xlabel=f"{skill} skill before RL, %", ylabel="unseen bridges, %", ylim=(0, 100))
        axis.legend()
    figure.savefig(FILE.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
