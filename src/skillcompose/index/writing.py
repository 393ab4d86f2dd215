"""How a fact reads: as a sentence of a passage, and as a hop of an answer."""

from skillcompose.recipe import Recipe
from skillcompose.types import Fact


def statement(relation: str, subject: str, value: str, recipe: Recipe) -> str:
    """One hop of an answer."""
    template = recipe.relation(relation).statement or "The " + relation.replace("_", " ") + " of {subject} is {object}."
    return template.format(subject=subject, object=value)


def sentence(fact: Fact, recipe: Recipe) -> str:
    """The sentence that states an index fact in a passage."""
    template = recipe.relation(fact.relation).passage
    return (
        template.format(subject=fact.subject, object=fact.object)
        if template
        else statement(fact.relation, fact.subject, fact.object, recipe)
    )
