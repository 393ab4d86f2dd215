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


def asked(relation: str, split: str, recipe: Recipe, before: Sequence[str] = ()) -> list[tuple[int, str]]:
    """(number, wording) for one split. `before` are the relations whose references stand for the subject, if any do.

    Of general wordings the last that can be said are held out, of the recipe's own its last, whatever stands before.
    """
    wordings = questions(relation, recipe)
    if not recipe.relation(relation).questions:
        return of_split(_speakable(wordings, recipe, before), split)
    found = of_split(wordings, split)
    spoken = _speakable([wording for _, wording in found], recipe, before, least=1)
    return [(number, wording) for number, wording in found if wording in spoken]


def referred(relation: str, split: str, recipe: Recipe, before: Sequence[str] = ()) -> list[str]:
    """The references for one split; `before` as above."""
    wordings = references(relation, recipe)
    if not recipe.relation(relation).reference:
        return references_of_split(_speakable(wordings, recipe, before), split)
    return _speakable(references_of_split(wordings, split), recipe, before, least=1)


def _speakable(wordings: list[str], recipe: Recipe, before: Sequence[str], least: int = 3) -> list[str]:
    """Without genitives and final verbs behind a clause, "the package that X uses"; all, if too few would be left."""
    if not any(words_of(name, recipe).clausal for name in before):
        return wordings
    kept = [wording for wording in wordings if "{subject}'s" not in wording and not wording.endswith("{subject} has.")]
    return kept if len(kept) >= least else wordings


def of_split(wordings: Sequence[str], split: str) -> list[tuple[int, str]]:
    """(number, wording) for one split: all but the last two to train, then one each."""
    numbered = list(enumerate(wordings))
    return {"train": numbered[:-2], "validation": numbered[-2:-1], "test": numbered[-1:]}[split]


def references_of_split(wordings: Sequence[str], split: str) -> list[str]:
    if len(wordings) == 1:
        return list(wordings)
    return list(wordings[-1:] if split == "test" else wordings[:-1])
