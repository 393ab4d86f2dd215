"""What must never be learnt: sensitive facts and patterns are taken out of every row that something trains on."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from skillcompose.facts.entities import spelled, spellings
from skillcompose.index.writing import sentence
from skillcompose.prompts import SHORT, mentions, normalise, prompt, says
from skillcompose.recipe import Recipe
from skillcompose.types import Fact, Passage, Question


class Redaction:
    """Removes what the recipe calls sensitive, or the row where that cannot be done."""

    def __init__(self, facts: Iterable[Fact], recipe: Recipe) -> None:
        facts = list(facts)
        secret = [fact for fact in facts if recipe.relation(fact.relation).sensitive]
        self.ids = {fact.id for fact in secret}
        self.stated = [sentence(fact, recipe) for fact in secret]
        pairs = {(normalise(fact.key), _value(fact)) for fact in secret}
        # What other facts name too is no secret; that it stands in this relation is.
        open_facts = [fact for fact in facts if not recipe.relation(fact.relation).sensitive]
        known = {normalise(name) for fact in open_facts for name in (fact.key, fact.subject, fact.object)}
        self.values = {value for _, said in pairs if (value := normalise(said)) not in known and len(value) > SHORT}
        aliases = {normalise(name): others for name, others in recipe.facts.aliases.items()}

        def forms(value: str) -> set[str]:
            return {normalise(value), *(form for form in spellings(value, aliases) if len(form) > SHORT)}

        self.spellings = {form for value in self.values for form in forms(value) - known - self.values}
        told = {(normalise(fact.key), normalise(_value(fact))) for fact in open_facts}
        untold = [(key, value) for key, value in pairs if (key, normalise(value)) not in told]
        self.pairs = [
            (name, said, value)
            for key, value in untold
            for name, said in product(spellings(key, aliases), forms(value))
        ]
        self.cells: dict[str, set[str]] = defaultdict(set)
        for key, value in pairs:
            self.cells[key].add(normalise(value))
        columns = {relation.column for relation in recipe.facts.relations.values() if relation.sensitive}
        # A field's line, or the row of a table of two columns; by name, because not every row of a table is a fact.
        self.fields = [re.compile(rf"(?im)^[\W_]*{re.escape(name)}[\W_]*?[:|].*$") for name in sorted(columns)]
        self.patterns = [re.compile(pattern) for pattern in recipe.facts.sensitive]

    def rows(self, questions: list[Question], dropped: Counter[str]) -> list[Question]:
        """The questions that can be trained on, with passages that state nothing sensitive."""
        if not self.ids and not self.patterns:
            return questions
        kept = []
        for question in questions:
            cleaned = replace(question, passages=tuple(map(self._cleaned, question.passages)))
            if self.ids.isdisjoint(question.fact_ids) and not self.shown(cleaned):
                kept.append(cleaned)
            else:
                dropped[f"{question.path}: not trained on, it shows something sensitive"] += 1
        return kept

    def shown(self, question: Question) -> bool:
        """Whether a row shows a sensitive value, or a passage that names it beside its key, or matches a pattern."""
        text = prompt(question.text, question.passages) + question.completion
        folded = spelled(text)
        return (
            any(value in folded for value in self.values)
            or any(form in folded and mentions(folded, form) for form in self.spellings)
            or any(p.search(text) for p in self.patterns)
            or any(self._told(f"{p.title}\n{p.text}") for p in question.passages)
        )

    def _told(self, text: str) -> bool:
        folded = spelled(text)
        return any(
            # Plain containment first, as it decides almost every pair.
            key in folded
            and said in folded
            and mentions(folded, key)
            and (mentions(folded, said) if len(said) > SHORT else says(text, value))
            for key, said, value in self.pairs
        )

    def _cleaned(self, passage: Passage) -> Passage:
        text = passage.text
        for stated in self.stated:
            if stated in text:
                text = text.replace(stated, "")
        for pattern in (*self.fields, *self.patterns):
            text = pattern.sub("", text)
        text = "\n".join(map(self._row, text.split("\n"))) if self.ids else text
        return replace(passage, text=" ".join(text.split()))

    def _row(self, line: str) -> str:
        """A table's row without the cells that are secret of the key beside them."""
        cells = line.split("|")
        secret = {value for cell in cells for value in self.cells.get(normalise(cell), ())}
        return "|".join("" if normalise(cell) in secret else cell for cell in cells) if secret else line


def _value(fact: Fact) -> str:
    return fact.subject if fact.object == fact.key else fact.object
