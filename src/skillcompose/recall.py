"""What an answer says from the weights, asked again alone: closed book, one hop at a time.

Beside passages and behind another sentence a fact is recalled less surely than alone: of 218 that composite questions
of `debian.yaml` end at, a policy knows 215 closed book, 196 beside the passages and 151 as the second sentence
(`benchmarks/recall.py`). So every hop of which no passage names both sides is asked as a question of its own, and what
that says takes its place.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.english import words_of
from skillcompose.generation import Written, completions
from skillcompose.progress import Progress
from skillcompose.prompts import FINAL, final_answer, mentions, normalise, prompt
from skillcompose.recipe import Recipe
from skillcompose.types import Passage

Ask = Callable[[list[str]], list[Written]]
Read = Sequence[Passage]


@dataclass(frozen=True)
class Known:
    """A sentence as one of a relation: `question` and `statement` are the relation's."""

    question: str
    statement: str
    subject: str
    object: str

    def asked(self) -> str:
        text = self.question.format(subject=self.subject)
        return text[0].upper() + text[1:]

    def stated(self) -> str:
        return self.statement.format(subject=self.subject, object=self.object)

    def answers(self, other: "Known") -> bool:
        return self.statement == other.statement and normalise(self.subject) == normalise(other.subject)


class Recall:
    """`relations` of the weights: how each is asked, with {subject}, and stated, with {object} as well."""

    def __init__(self, relations: Iterable[Sequence[str]] = ()) -> None:
        self.relations = [(asked, stated) for asked, stated in relations]
        # The longest first: "X is a member of Y" is a form of "X is a Y" too.
        self.patterns = [
            (asked, stated, _pattern(stated, "+?", "+"), _pattern(stated, "+", "+?"))
            for asked, stated in sorted(self.relations, key=lambda relation: -len(relation[1]))
            if "{subject}" in asked and "{subject}" in stated and "{object}" in stated
        ]

    @classmethod
    def of(cls, recipe: Recipe) -> "Recall":
        known = (name for name, relation in recipe.facts.relations.items() if relation.place == "weights")
        return cls((words.questions[0], words.statement) for words in (words_of(name, recipe) for name in known))

    def known(self, sentence: str, read: Read) -> Known | None:
        """The sentence as a fact of the weights; None where it is none, can be read in two ways, or may have been read:
        a passage names both sides of it."""
        for asked, stated, first, last in self.patterns:
            if (one := first.fullmatch(sentence.strip())) and (other := last.fullmatch(sentence.strip())):
                found = Known(asked, stated, **one.groupdict())
                texts = (f"{passage.title} {passage.text}" for passage in read)
                told = any(mentions(text, found.subject) and mentions(text, found.object) for text in texts)
                return None if told or one.groupdict() != other.groupdict() else found
        return None

    def again(self, said: Sequence[Written], read: Sequence[Read], ask: Ask) -> list[Written]:
        """The answers with the line that `ask` says closed book in the place of each known hop."""
        chains = [Chain(self, one, passages) for one, passages in zip(said, read, strict=True)]
        while asked := [(chain, question) for chain in chains if (question := chain.question())]:
            prompts = list(dict.fromkeys(prompt(question) for _, question in asked))
            found = dict(zip(prompts, ask(prompts), strict=True))
            for chain, question in asked:
                chain.take(found[prompt(question)])
        return [chain.written for chain in chains]

    def settled(self, text: str, read: Read) -> str:
        """The beginning of an unfinished answer that will stay: whole lines before the first that is asked again."""
        kept = ""
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n") or self.known(line, read):
                break
            kept += line
        return kept


def _pattern(statement: str, subject: str, value: str) -> re.Pattern[str]:
    """With the shortest subject, or the shortest value: "The author of What is Life is Ann" can be read in two ways."""
    pattern = re.escape(statement)
    for name, size in (("subject", subject), ("object", value)):
        # A name that the statement says twice is the same one.
        field = rf"\{{{name}\}}"
        pattern = pattern.replace(field, f"(?P<{name}>.{size})", 1).replace(field, f"(?P={name})")
    return re.compile(pattern)


class Chain:
    """One answer whose known hops are asked again, first to last: `question`, `take`, until there is none left.

    What changes is the subject of hops behind it. Where one of them cannot be asked, the answer stays as it was.
    """

    def __init__(self, recall: Recall, said: Written, read: Read) -> None:
        self.recall, self.said, self.read = recall, said, read
        *self.hops, self.final = said.text.split("\n")
        if final_answer(said.text) is None:
            self.hops = []
        self.at, self.asking = 0, Known("", "", "", "")
        self.moved: dict[str, str] = {}
        """What hops said, normalised, and what they say now."""
        self.sure = list(said.lines)
        """The probability of each line."""

    def question(self) -> str | None:
        while self.at < len(self.hops):
            if found := self.recall.known(self.hops[self.at], self.read):
                self.asking = replace(found, subject=self.moved.get(normalise(found.subject), found.subject))
                return self.asking.asked()
            if any(mentions(self.hops[self.at], before) for before in self.moved):
                self._leave()
            self.at += 1
        return None

    def take(self, said: Written) -> None:
        found, asked = self.recall.known(said.text, ()), self.asking
        if found and found.answers(asked):
            self.sure[self.at] = said.lines[0]
            self.hops[self.at] = replace(asked, object=found.object).stated()
            if found.object != asked.object:
                self.moved[normalise(asked.object)] = found.object
                if normalise(final_answer(self.final) or "") == normalise(asked.object):
                    self.final, self.sure[-1] = FINAL + found.object, 1.0
        elif normalise(asked.subject) in map(normalise, self.moved.values()):
            self._leave()
        self.at += 1

    def _leave(self) -> None:
        self.hops, self.moved = [], {}

    @property
    def written(self) -> Written:
        return Written("\n".join([*self.hops, self.final]), self.sure) if self.hops else self.said


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    read: Sequence[Read],
    recall: Recall,
    max_new_tokens: int,
    progress: Progress | None = None,
    what: str = "answering",
) -> list[Written]:
    """One greedy answer per prompt, its known hops asked again; `read` are the passages of each prompt."""
    ask = partial(completions, model, tokenizer, max_new_tokens=max_new_tokens, progress=progress, what=what)
    return recall.again(ask(prompts), read, partial(ask, line=True))
