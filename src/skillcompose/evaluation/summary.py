"""Predictions -> the numbers: counts, shares and 95 % intervals by rung, skill, level and kind of bridge."""

from collections.abc import Sequence
from typing import Any

from skillcompose.evaluation.ladder import Prediction
from skillcompose.metrics import bootstrap
from skillcompose.questions.probes import PROBES
from skillcompose.results import RUNGS
from skillcompose.types import Level, Skill

CONFIDENT = (0.3, 0.5, 0.7)


def cell(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    if not predictions:
        return None
    scores = [float(p.correct) for p in predictions]
    low, high = bootstrap(scores, [p.bridge or p.question for p in predictions])
    return {
        "correct": int(sum(scores)),
        "asked": len(scores),
        "share": round(sum(scores) / len(scores), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def macro(cells: Sequence[dict[str, Any] | None]) -> float | None:
    """The mean of the levels' shares, so that a level with many questions weighs no more than another."""
    shares = [found["share"] for found in cells if found]
    return round(sum(shares) / len(shares), 4) if shares else None


def summarise(predictions: list[Prediction]) -> dict[str, Any]:
    """`{rung: {"unseen": {level: cell, "macro"}, "seen", "parametric": [1 hop, 2 hops], ...,
    "confident": {least: cell}, "reversed": cell, "reworded": cell}}`."""
    metrics: dict[str, Any] = {}
    for rung in RUNGS:
        own = [p for p in predictions if p.rung == rung]
        composite = [p for p in own if p.skill == Skill.COMPLEMENTARY]
        groups = {
            "unseen": [p for p in composite if not p.seen],
            "seen": [p for p in composite if p.seen],
        }
        found: dict[str, Any] = {}
        for name, group in groups.items():
            cells = {level.value: cell([p for p in group if p.level == level]) for level in Level}
            if any(cells.values()):
                found[name] = cells | {"macro": macro(list(cells.values()))}
        for skill in (Skill.PARAMETRIC, Skill.CONTEXTUAL):
            rows = [cell([p for p in own if p.skill == skill and p.hops == hops]) for hops in (1, 2)]
            if any(rows):
                found[skill.value] = rows
        sure = {str(least): cell([p for p in groups["unseen"] if p.confidence >= least]) for least in CONFIDENT}
        if any(sure.values()):
            found["confident"] = sure
        found |= {kind: asked for kind in PROBES if (asked := cell([p for p in own if p.skill == kind]))}
        if found:
            metrics[rung] = found
    return metrics
