"""Follow-up questions: "Who maintains it?" becomes a question that can be searched for and answered by itself.

By rule, because a small model that was taught two skills does not rewrite questions: a pronoun stands for the entity
that the last answer gave, or else that it was about.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from bm25s.stopwords import STOPWORDS_EN

from skillcompose.prompts import final_answer, normalise, sentences

PRONOUNS = re.compile(r"\b(it|its|they|them|their|he|him|his|she|her|hers|this one|that one)\b", re.I)
POSSESSIVE = {"its", "their", "his", "hers"}
# "her manager", but "reports to her in Berlin".
OWNS = re.compile(r" +(?!(?:about|and|as|at|by|for|from|if|in|of|on|or|to|when|with)\b)\w", re.I)
Turn = tuple[str, str]
"""A question, and the completion that answered it."""


def is_name(normalised: str) -> bool:
    """Not what every sentence would name: marks alone, pronouns, `the`."""
    return bool(normalised) and normalised not in STOPWORDS_EN and not PRONOUNS.fullmatch(normalised)


class Names:
    """Entities, however they are written, and titles as they are: "its owner" does not name the heading `Owner`."""

    def __init__(self, entities: Iterable[str], titles: Iterable[str] = ()) -> None:
        titles = list(titles)
        lower = [title for title in titles if title.islower()]
        self.entities = {*filter(is_name, map(normalise, [*entities, *lower]))}
        self.titles = {*filter(is_name, map(normalise, titles))}

    def __contains__(self, phrase: str) -> bool:
        name = normalise(phrase)
        return name in self.entities or (name in self.titles and not phrase.islower())


def standalone(question: str, turns: Sequence[Turn], is_entity: Callable[[str], bool]) -> str:
    """The question with its pronouns replaced by what they stand for; unchanged when it has none, or names an entity
    itself, or no earlier turn does.

    >>> standalone("Who maintains it?", [("What does a need?", "a needs b.\\nSo: b")], {"a", "b"}.__contains__)
    'Who maintains b?'
    """
    if not turns or not PRONOUNS.search(question) or entities(question, is_entity):
        return question
    meant = next((found for turn in reversed(turns) if (found := _meant(turn, is_entity))), None)
    if meant is None:
        return question

    def said(found: re.Match[str]) -> str:
        word, rest = found.group(), question[found.end() :]
        if word == "IT":  # the department
            return word
        owns = word.casefold() in POSSESSIVE or (word.casefold() == "her" and OWNS.match(rest))
        return f"{meant}'s" if owns else meant

    return PRONOUNS.sub(said, question)


def _meant(turn: Turn, is_entity: Callable[[str], bool]) -> str | None:
    """The answer if it is an entity; else the last one that the reasoning, or the question, speaks of."""
    question, completion = turn
    answer = final_answer(completion)
    if answer and is_entity(answer):
        return answer
    for text in [*reversed(sentences(completion)), question]:
        if found := entities(text, is_entity):
            return found[0]
    return None


def entities(text: str, is_entity: Callable[[str], bool]) -> list[str]:
    """The entities that a text names, in its order, the longest of those that overlap."""
    words = list(re.finditer(r"\S+", text))
    found, at = [], 0
    while at < len(words):
        for end in range(min(len(words), at + 6), at, -1):
            phrase = text[words[at].start() : words[end - 1].end()].strip(" .,;:!?\"'")
            if is_entity(phrase):
                found.append(phrase)
                at = end - 1
                break
        at += 1
    return found
