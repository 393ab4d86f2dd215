"""How questions are worded: the recipe's wordings or general ones, and which of them are held out."""

from collections.abc import Sequence

from skillcompose.english import words_of
from skillcompose.recipe import Recipe


def questions(relation: str, recipe: Recipe) -> list[str]:
    """All wordings with {subject}; the last is for the test only, the one before for validation only."""
    return list(words_of(relation, recipe).questions)


def references(relation: str, recipe: Recipe) -> list[str]:
    """Noun phrases that stand for the object of a relation; the last is for the test only when there are several."""
    return list(words_of(relation, recipe).references)


def of_split(wordings: Sequence[str], split: str) -> list[tuple[int, str]]:
    """(number, wording) for one split: all but the last two to train, then one each."""
    numbered = list(enumerate(wordings))
    return {"train": numbered[:-2], "validation": numbered[-2:-1], "test": numbered[-1:]}[split]


def references_of_split(wordings: Sequence[str], split: str) -> list[str]:
    if len(wordings) == 1:
        return list(wordings)
    return list(wordings[-1:] if split == "test" else wordings[:-1])
