"""The plots of the reports, as SVG that stands in the page."""

import io
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from skillcompose.results import RUNGS
from skillcompose.types import Level

matplotlib.use("svg")
COLOURS = {"start": "C1", "composed": "C0", "chance": "#999"}


def ladder_plot(metrics: dict[str, Any]) -> Markup:
    rungs = [rung for rung in RUNGS if metrics.get(rung, {}).get("unseen", {}).get("macro") is not None]
    figure = Figure(figsize=(9, 0.42 * len(rungs) + 1.2), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(Level)
    for offset, level in enumerate(Level):
        for row, rung in enumerate(rungs):
            found = metrics[rung]["unseen"].get(level.value)
            if not found:
                continue
            low, high = found["interval"]
            share = found["share"]
            axes.barh(
                row + offset * height,
                100 * share,
                height,
                color=f"C{offset}",
                xerr=[[100 * max(0, share - low)], [100 * max(0, high - share)]],
                ecolor="#888",
                label=level.value.replace("_", "-") if row == 0 else None,
            )
    axes.set_yticks([row + height for row in range(len(rungs))], [RUNGS[rung] for rung in rungs])
    axes.invert_yaxis()
    axes.set_xlabel("exact match on unseen bridges, %")
    axes.legend(loc="lower right")
    return svg(figure)


def curves_plot(losses: dict[str, list[dict[str, float]]], training: dict[str, Any]) -> Markup:
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, history in losses.items():
        left.plot([entry["step"] for entry in history], [entry["loss"] for entry in history], label=name)
    left.set_xlabel("step")
    left.set_ylabel("loss")
    left.legend()
    history = [entry for entry in training["history"] if entry["reward"] is not None]  # no reward had an opinion
    right.plot(
        [e["step"] for e in history], [100 * e["reward"] for e in history], color="#bbb", label="reward (training)"
    )
    steps = sorted(training["validation"], key=int)
    right.plot([int(s) for s in steps], [100 * training["validation"][s] for s in steps], "o-", label="validation")
    for name in ("parametric", "contextual", "closed_book"):
        shares = [100 * training["probes"][s][name] for s in steps if name in training["probes"][s]]
        right.plot([int(s) for s in steps][: len(shares)], shares, ".--", linewidth=0.8, label=name.replace("_", " "))
    right.axvline(training["chosen_step"], color="#888", linestyle=":", label="chosen")
    right.set_xlabel("GRPO step")
    right.set_ylabel("exact match, %")
    right.legend()
    return svg(figure)


def svg(figure: Any) -> Markup:
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "skillcompose"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])


def pass_at_k_plot(found: dict[str, Any]) -> Markup:
    """One panel a level; bands are the 95 % intervals."""
    figure = Figure(figsize=(3 * len(found) + 1, 3), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (level, result) in zip(panels, found.items(), strict=True):
        for number, (name, curve) in enumerate(result["curves"].items()):
            colour = COLOURS.get(name, f"C{number}")
            axes.plot(curve["k"], [100 * share for share in curve["share"]], color=colour, label=name)
            if curve["interval"]:
                low, high = zip(*curve["interval"], strict=True)
                axes.fill_between(curve["k"], [100 * x for x in low], [100 * x for x in high], color=colour, alpha=0.2)
        axes.set_xscale("log", base=2)
        axes.set_title(f"{level.replace('_', '-')}: {result['verdicts']['composed']['verdict']}")
        axes.set_xlabel("samples k")
    panels[0].set_ylabel("whole chain right in k samples, %")
    panels[0].legend()
    return svg(figure)


def attribution_plot(found: dict[str, Any]) -> Markup:
    names = list(next(iter(found.values())))
    figure = Figure(figsize=(9, 0.45 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for offset, (rung, cells) in enumerate(found.items()):
        shares = [100 * cells[name]["share"] for name in names]
        ends = [[100 * end for end in cells[name]["interval"]] for name in names]
        error = [
            [max(0, share - low) for share, (low, _) in zip(shares, ends, strict=True)],
            [max(0, high - share) for share, (_, high) in zip(shares, ends, strict=True)],
        ]
        height = 0.8 / len(found)
        places = [row + height * offset for row in range(len(names))]
        axes.barh(places, shares, height, color=COLOURS.get(rung, "C2"), xerr=error, ecolor="#888", label=rung)
    axes.set_yticks([row + 0.3 for row in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel("share of the questions, %")
    axes.legend()
    return svg(figure)
