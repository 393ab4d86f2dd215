"""`report.html`: the ladder, the learning curves, and answers good and bad with the passages they had."""

import io
import random
from typing import TYPE_CHECKING, Any

import matplotlib
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from skillcompose.evaluation.breaks import ADVICE
from skillcompose.pipeline import Work
from skillcompose.results import RUNGS, ladder_table
from skillcompose.types import Level, Question, read_json, read_jsonl, write_text

if TYPE_CHECKING:
    from skillcompose.evaluation.ladder import Ladder, Prediction

matplotlib.use("svg")
SAMPLES = 10


def write_report(
    work: Work, metrics: dict[str, Any], predictions: "list[Prediction]", breaks: dict[str, Any], ladder: "Ladder"
) -> None:
    recipe = work.recipe
    asked = read_json(work.read("questions") / "questions.report.json")
    training = read_json(work.read("composition") / "training.json")
    losses = {
        name: read_json(folder / "training.json")["history"]
        for name, folder in {
            "parametric adapter": work.read("adapters") / "parametric",
            "contextual adapter": work.read("adapters") / "contextual",
            "consolidation": work.read("composition") / "start",
        }.items()
    }
    questions = {q.id: q for q in read_jsonl(work.read("questions") / "complementary.test.jsonl", Question)}
    # Everything that comes from documents is escaped: a knowledge base is untrusted text.
    page = Environment(loader=PackageLoader("skillcompose.evaluation", "."), autoescape=True).get_template(
        "report.html"
    )
    html = page.render(
        name=recipe.name,
        seed=recipe.seed,
        model=recipe.model,
        k=asked["k"],
        recall=f"{100 * asked['recall_at_k']:.1f} %",
        warnings=warnings(work),
        table=ladder_table(metrics),
        ladder_plot=ladder_plot(metrics),
        curves_plot=curves_plot(losses, training),
        breaks=breaks,
        causes=ADVICE,
        labels=RUNGS,
        seconds=ladder.seconds,
        tokens=ladder.prompt_tokens,
        samples=samples(predictions, questions, recipe.seed),
    )
    write_text(work.folder / "report.html", html)


def warnings(work: Work) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    collapsed = read_json(work.read("composition") / "training.json")["collapsed"]
    if collapsed:
        found.append(f"GRPO collapsed and was stopped ({collapsed}); the policy is from before.")
    for stage, gate in (("adapters", work.recipe.adapters.mastery), ("composition", work.recipe.composition.mastery)):
        results = read_json(work.read(stage) / "mastery.json")
        for skill in ("parametric", "contextual"):
            for row, least in zip(results[skill], getattr(gate, skill), strict=False):
                if row["asked"] and row["correct"] / row["asked"] < least:
                    found.append(
                        f"Below the mastery gate after {stage}: {skill}, {row['hops']} hops, "
                        f"{row['correct']} of {row['asked']} where {least:.0%} were required."
                    )
    return found


def samples(predictions: "list[Prediction]", questions: dict[str, Question], seed: int) -> list[dict[str, Any]]:
    """Right and wrong answers of the composed policy in equal parts, as far as there are any."""
    own = [p for p in predictions if p.rung == "composed" and p.question in questions]
    rng = random.Random(f"samples {seed}")
    rng.shuffle(own)
    right, wrong = [p for p in own if p.correct], [p for p in own if not p.correct]
    half = SAMPLES // 2
    chosen = right[: SAMPLES - min(half, len(wrong))] + wrong[: SAMPLES - min(half, len(right))]
    return [{"prediction": p, "question": questions[p.question]} for p in chosen[:SAMPLES]]


def ladder_plot(metrics: dict[str, Any]) -> Markup:
    from matplotlib.figure import Figure

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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, history in losses.items():
        left.plot([entry["step"] for entry in history], [entry["loss"] for entry in history], label=name)
    left.set_xlabel("step")
    left.set_ylabel("loss")
    left.legend()
    history = training["history"]
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
