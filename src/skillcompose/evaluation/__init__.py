"""Stage 7: greedy answers of every rung of the ladder to test questions, scored, with intervals, and a report."""

from skillcompose.evaluation.floors import floors
from skillcompose.evaluation.ladder import Ladder, Prediction
from skillcompose.evaluation.report import write_report
from skillcompose.evaluation.summary import summarise
from skillcompose.pipeline import Work
from skillcompose.types import write_json, write_jsonl

__all__ = ["Prediction", "run", "summarise"]


def run(work: Work) -> None:
    ladder = Ladder(work)
    predictions = floors(work, ladder.tests.headline) + ladder.climb()
    write_jsonl(work.folder / "predictions.jsonl", predictions)
    metrics = summarise(predictions)
    write_json(work.folder / "metrics.json", metrics)
    write_json(work.folder / "timing.json", {"rungs": ladder.seconds, "prompt_tokens": ladder.prompt_tokens})
    write_report(work, metrics, predictions, ladder)
