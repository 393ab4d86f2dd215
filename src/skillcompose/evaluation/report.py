"""`report.html`: the ladder, the learning curves, and answers good and bad with the passages they had."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

from skillcompose.adapters.mastery import below
from skillcompose.evaluation.attribution import MEANING
from skillcompose.evaluation.breaks import ADVICE
from skillcompose.evaluation.plots import attribution_plot, curves_plot, ladder_plot, pass_at_k_plot
from skillcompose.planning import spent
from skillcompose.results import RUNGS, confidence_text, ladder_table
from skillcompose.stages import Work
from skillcompose.types import Question, read_json, read_jsonl, write_text

if TYPE_CHECKING:
    from skillcompose.evaluation.ladder import Ladder, Prediction

SAMPLES = 10
# Everything that comes from documents is escaped: a knowledge base is untrusted text.
PAGES = Environment(loader=PackageLoader("skillcompose.evaluation", "."), autoescape=True)


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
            "gold traces": work.read("composition") / "traced",
        }.items()
        if folder.is_dir()
    }
    questions = {q.id: q for q in read_jsonl(work.read("questions") / "complementary.test.jsonl", Question)}
    html = PAGES.get_template("report.html").render(
        name=recipe.name,
        seed=recipe.seed,
        model=recipe.model,
        k=asked["k"],
        recall=f"{100 * asked['recall_at_k']:.1f} %",
        warnings=warnings(work),
        table=ladder_table(metrics),
        ladder_plot=ladder_plot(metrics),
        confidence=confidence_text(metrics["composed"]),
        curves_plot=curves_plot(losses, training),
        breaks=breaks,
        causes=ADVICE,
        labels=RUNGS,
        cost=ladder.cost,
        spent=spent(work.run, {"evaluation": work.run.elapsed("evaluation")}),
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
        for skill, row, least in below(read_json(work.read(stage) / "mastery.json"), gate):
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


def write_diagnosis(folder: Path, name: str) -> Path:
    """`diagnosis.html` from what was measured so far: pass@k, attribution, or both. Returns its path."""
    path = folder / "diagnosis.html"
    found = {kind: folder / f"{kind}.json" for kind in ("pass_at_k", "attribution")}
    measured = {kind: read_json(file) for kind, file in found.items() if file.is_file()}
    drawn = {"pass_at_k": pass_at_k_plot, "attribution": attribution_plot}
    plots = {kind: drawn[kind](result) for kind, result in measured.items()}
    write_text(path, PAGES.get_template("diagnosis.html").render(name=name, plots=plots, meaning=MEANING, **measured))
    return path
