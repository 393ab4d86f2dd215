"""What must never be learnt: sensitive facts and patterns are taken out of every row that something trains on."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from skillcompose.index.writing import sentence
from skillcompose.prompts import normalise, prompt
from skillcompose.recipe import Recipe
from skillcompose.types import Fact, Passage, Question

SHORT = 3
"""Values of so few letters stand everywhere by chance; their sentences are removed all the same."""


class Redaction:
    """Removes what the recipe calls sensitive, or the row where that cannot be done."""

    def __init__(self, facts: Iterable[Fact], recipe: Recipe) -> None:
        facts = list(facts)
        secret = [fact for fact in facts if recipe.relation(fact.relation).sensitive]
        self.ids = {fact.id for fact in secret}
        self.stated = [sentence(fact, recipe) for fact in secret]
        values = {normalise(fact.subject if fact.object == fact.key else fact.object) for fact in secret}
        # What other facts name too is no secret; that it stands in this relation is.
        open_facts = [fact for fact in facts if not recipe.relation(fact.relation).sensitive]
        known = {normalise(name) for fact in open_facts for name in (fact.key, fact.subject, fact.object)}
        self.values = {value for value in values - known if len(value) > SHORT}
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
        """Whether a row shows a sensitive value or matches a pattern."""
        text = prompt(question.text, question.passages) + question.completion
        folded = normalise(text)
        return any(value in folded for value in self.values) or any(p.search(text) for p in self.patterns)

    def _cleaned(self, passage: Passage) -> Passage:
        text = passage.text
        for stated in self.stated:
            if stated in text:
                text = text.replace(stated, "")
        for pattern in self.patterns:
            text = pattern.sub("", text)
        return replace(passage, text=" ".join(text.split()))
