"""How questions are worded: the recipe's wordings or general ones, and which of them are held out."""

from collections.abc import Sequence

from skillcompose.recipe import Recipe

GENERAL = (
    "What is the {name} of {{subject}}?",
    "Name the {name} of {{subject}}.",
    "What {name} does {{subject}} have?",
    "Tell me the {name} of {{subject}}.",
    "{{subject}}: which {name}?",
    "What is {{subject}}'s {name}?",
    "I would like to know the {name} of {{subject}}.",
    "Please say which {name} {{subject}} has.",
)
GENERAL_REFERENCE = (
    "the {name} of {{subject}}",
    "{{subject}}'s {name}",
    "the {name} that {{subject}} has",
    "the {name} which belongs to {{subject}}",
)


def questions(relation: str, recipe: Recipe) -> list[str]:
    """All wordings with {subject}; the last is for the test only, the one before for validation only."""
    return list(recipe.relation(relation).questions) or [w.format(name=relation.replace("_", " ")) for w in GENERAL]


def references(relation: str, recipe: Recipe) -> list[str]:
    """Noun phrases that stand for the object of a relation; the last is for the test only when there are several."""
    named = list(recipe.relation(relation).reference)
    return named or [w.format(name=relation.replace("_", " ")) for w in GENERAL_REFERENCE]


def of_split(wordings: Sequence[str], split: str) -> list[tuple[int, str]]:
    """(number, wording) for one split: all but the last two to train, then one each."""
    numbered = list(enumerate(wordings))
    return {"train": numbered[:-2], "validation": numbered[-2:-1], "test": numbered[-1:]}[split]


def references_of_split(wordings: Sequence[str], split: str) -> list[str]:
    if len(wordings) == 1:
        return list(wordings)
    return list(wordings[-1:] if split == "test" else wordings[:-1])
