"""Stage 7: greedy answers of every rung of the ladder to test questions, scored, with intervals, and a report."""

from skillcompose.evaluation.breaks import count_breaks
from skillcompose.evaluation.floors import floors
from skillcompose.evaluation.ladder import Ladder, Prediction
from skillcompose.evaluation.report import write_report
from skillcompose.evaluation.summary import summarise
from skillcompose.stages import Work
from skillcompose.types import Fact, Question, Skill, read_jsonl, write_json, write_jsonl

__all__ = ["Prediction", "run", "summarise"]


def run(work: Work) -> None:
    ladder = Ladder(work)
    predictions = floors(work, ladder.tests.headline) + ladder.climb()
    write_jsonl(work.folder / "predictions.jsonl", predictions)
    metrics = summarise(predictions)
    asked = read_jsonl(work.read("questions") / f"{Skill.COMPLEMENTARY}.test.jsonl", Question)
    breaks = count_breaks(predictions, {q.id: q for q in asked}, read_jsonl(work.read("facts") / "facts.jsonl", Fact))
    write_json(work.folder / "breaks.json", breaks)
    write_json(work.folder / "metrics.json", metrics)
    write_json(work.folder / "timing.json", ladder.cost)
    write_report(work, metrics, predictions, breaks, ladder)
    ladder.forget_unused()
