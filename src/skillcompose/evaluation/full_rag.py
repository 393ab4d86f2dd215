"""Why not put it all in the index? Every fact is retrievable, and retrieval runs twice: for the question, then for the
first hop of the model's own answer."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from skillcompose.builtin import resolve
from skillcompose.index import Retriever, compile_passages
from skillcompose.prompts import sentences
from skillcompose.recipe import Recipe
from skillcompose.run import Run
from skillcompose.types import Fact, Passage, Question, Skill, read_jsonl


class FullRag:
    """The run's index with the weights facts added to its passages."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        facts = read_jsonl(run.stage("facts") / "facts.jsonl", Fact)
        # The index's own passages already hold the rendered index facts.
        known = read_jsonl(run.stage("index") / "passages.jsonl", Passage)
        only = [fact for fact in facts if fact.skill is Skill.PARAMETRIC]
        passages, _ = compile_passages(known, only, recipe, everything=True)
        embedder = resolve(recipe.index.embedder, recipe.source.parent)
        self.retriever = Retriever.build(passages, embedder, recipe.index.search)
        self.k = recipe.index.k

    def read(self, questions: Sequence[Question], answer: Callable[[list[Question]], list[str]]) -> list[Question]:
        """The questions with what both retrievals find; `answer` gives the first answers."""
        first = self._with(questions, self._search([q.text for q in questions], self.k))
        hops = [(sentences(text) or [q.text])[0] for text, q in zip(answer(first), first, strict=True)]
        more = self._search(hops, max(1, self.k - 1))
        return self._with(first, [(*found, *q.passages) for found, q in zip(more, first, strict=True)])

    def _search(self, queries: list[str], k: int) -> list[tuple[Passage, ...]]:
        return [tuple(hit.passage for hit in hits) for hits in self.retriever.search(queries, k)]

    @staticmethod
    def _with(questions: Sequence[Question], passages: list[tuple[Passage, ...]]) -> list[Question]:
        pairs = zip(questions, passages, strict=True)
        return [replace(question, passages=tuple(dict.fromkeys(found))) for question, found in pairs]
