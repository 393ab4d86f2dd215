"""Why not put it all in the index? Every fact is retrievable, and retrieval runs twice: for the question, then for the
first hop of the model's own answer."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from skillcompose.index import Retriever, compile_passages
from skillcompose.index.steps import Hits, by_title, in_steps
from skillcompose.recipe import Recipe
from skillcompose.run import Run
from skillcompose.types import Fact, Passage, Question, Skill, read_jsonl

STEPS = 2


class FullRag:
    """The run's index with the weights facts added to its passages."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        facts = read_jsonl(run.stage("facts") / "facts.jsonl", Fact)
        # The index's own passages already hold the rendered index facts.
        known = read_jsonl(run.stage("index") / "passages.jsonl", Passage)
        only = [fact for fact in facts if fact.skill is Skill.PARAMETRIC]
        passages, _ = compile_passages(known, only, recipe, everything=True)
        self.retriever = Retriever.build(passages, recipe.index, recipe.beside)
        self.titled = by_title(passages)
        self.k = recipe.index.k

    def read(self, questions: Sequence[Question], answer: Callable[[list[Question]], list[str]]) -> list[Question]:
        """The questions with what both retrievals find; `answer` gives the first answers."""
        asked = [question.text for question in questions]
        first, search = self.retriever.search(asked, self.k), self.retriever.search
        found = in_steps(asked, first, lambda hits: answer(_with(questions, hits)), search, self.titled, self.k, STEPS)
        return _with(questions, found)


def _with(questions: Sequence[Question], found: Hits) -> list[Question]:
    pairs = zip(questions, found, strict=True)
    return [replace(question, passages=tuple(hit.passage for hit in hits)) for question, hits in pairs]
