"""How a fact reads: as a sentence of a passage, and as a hop of an answer."""

from skillcompose.english import words_of
from skillcompose.recipe import Recipe
from skillcompose.types import Fact


def statement(relation: str, subject: str, value: str, recipe: Recipe) -> str:
    """One hop of an answer."""
    return words_of(relation, recipe).statement.format(subject=subject, object=value)


def sentence(fact: Fact, recipe: Recipe) -> str:
    """The sentence that states an index fact in a passage."""
    return words_of(fact.relation, recipe).passage.format(subject=fact.subject, object=fact.object)
