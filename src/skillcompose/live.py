"""Questions that a policy answers together, and that others may join between two tokens.

Where clients come one after another, a batch that is closed makes each wait for the one before it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from skillcompose.computing import in_one_thread
from skillcompose.decoding import Decoding
from skillcompose.generation import Tokens
from skillcompose.types import Answer, ScoredPassage

if TYPE_CHECKING:
    from skillcompose.policy import Given, Policy


@dataclass(eq=False)
class Growing:
    """One question on its way; `answer` has no text and no hops before it is `done`."""

    answer: Answer
    hits: Sequence[ScoredPassage]
    prompt: list[int]
    ids: Tokens = field(default_factory=Tokens)
    done: bool = False
    cut: bool = False
    """It is done because it may be no longer."""


class Live:
    """Not for two threads at once; others may use the policy meanwhile."""

    def __init__(self, policy: "Policy") -> None:
        self.policy = policy
        self.decoding = Decoding(policy.model, policy.tokenizer, policy.max_new_tokens)
        self.waiting: deque[Growing] = deque()
        self.growing: list[Growing] = []

    def join(self, questions: Sequence[str], passages: "Sequence[Given] | None" = None) -> list[Growing]:
        """Take these in; they start with the next `step` that has room for them.

        Raises:
            PromptError: A prompt and its answer do not fit into what the model can read; none is taken in.
        """
        found, prompts, encoded = self.policy.prepare(questions, passages)
        new = [
            Growing(Answer("", (), tuple(hits), asked, ""), hits, ids)
            for hits, asked, ids in zip(found, prompts, encoded, strict=True)
        ]
        self.waiting += new
        return new

    @in_one_thread
    def leave(self, left: Growing) -> None:
        """Nobody waits for this one any more."""
        if left in self.waiting:
            self.waiting.remove(left)
        else:
            self.growing = [one for one in self.growing if one is not left]
            self.decoding.keep([one.ids for one in self.growing])

    @in_one_thread
    def step(self) -> None:
        """One more token for each."""
        new: list[Growing] = []
        while self.waiting and self.decoding.fit([*(one.prompt for one in new), self.waiting[0].prompt]):
            new.append(self.waiting.popleft())
        if new:
            for one, ids in zip(new, self.decoding.join([one.prompt for one in new]), strict=True):
                one.ids = ids
            self.growing += new
        if not self.growing:  # all have left
            return
        self.decoding.step()
        texts = [self.policy.tokenizer.decode(one.ids, skip_special_tokens=True).lstrip() for one in self.growing]
        for one, text in zip(self.growing, texts, strict=True):
            one.done = self.decoding.over(one.ids)
            if one.done:
                one.cut = one.ids[-1] != self.decoding.end
                one.answer = self.policy.read(text, one.hits, one.answer.prompt, one.ids.confidence)
            elif not text.endswith("\ufffd"):  # half of a character is no text yet
                one.answer = replace(one.answer, completion=text)
        self.growing = [one for one in self.growing if not one.done]
