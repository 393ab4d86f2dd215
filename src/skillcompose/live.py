"""Questions that a policy answers together, and that others may join between two tokens.

Where clients come one after another, a batch that is closed makes each wait for the one before it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.computing import in_one_thread
from skillcompose.generation import BATCH_TOKENS, Tokens, choose, next_logits, token_log_probs, written
from skillcompose.kernels.cache import GrowingCache
from skillcompose.prefill import prefill
from skillcompose.prompts import prompt
from skillcompose.recall import Chain
from skillcompose.types import Answer, ScoredPassage

if TYPE_CHECKING:
    from skillcompose.policy import Given, Policy


@dataclass(eq=False)
class Growing:
    """One question on its way; `answer` has no text and no hops before it is `done`."""

    answer: Answer
    hits: Sequence[ScoredPassage]
    prompt: list[int]
    asked: list[int]
    """What is answered now: the prompt, or a known hop of the answer, again."""
    ids: Tokens = field(default_factory=Tokens)
    lines: int = 0
    """Whole lines of the answer that were looked at: which of them will stay?"""
    chain: Chain | None = None
    written: int = 0
    """Tokens of all that was answered."""
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
            Growing(Answer("", (), tuple(hits), asked, ""), hits, ids, ids)
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
        while self.waiting and self.decoding.fit([*(one.asked for one in new), self.waiting[0].asked]):
            new.append(self.waiting.popleft())
        if new:
            lines = [one.chain is not None for one in new]
            for one, ids in zip(new, self.decoding.join([one.asked for one in new], lines), strict=True):
                one.ids = ids
            self.growing += new
        if not self.growing:  # all have left
            return
        self.decoding.step()
        texts = [self.policy.tokenizer.decode(one.ids, skip_special_tokens=True).lstrip() for one in self.growing]
        left = []
        for one, text in zip(self.growing, texts, strict=True):
            if self.decoding.over(one.ids):
                self._take(one)
                continue
            left.append(one)
            if one.chain is None and text.count("\n") > one.lines:
                one.lines = text.count("\n")
                settled = self.policy.recall.settled(text, [hit.passage for hit in one.hits])
                one.answer = replace(one.answer, completion=settled)
        self.growing = left

    def _take(self, one: Growing) -> None:
        """What is whole: the answer, or a hop that was asked again. The next such hop waits before all others."""
        said = written(self.policy.tokenizer, one.ids)
        one.written += len(one.ids)
        if one.chain is None:
            one.cut = not one.ids.ended(self.policy.tokenizer)
            one.chain = Chain(self.policy.recall, said, [hit.passage for hit in one.hits])
        else:
            one.chain.take(said)
        if question := one.chain.question():
            one.asked = self.policy.tokenizer(prompt(question), add_special_tokens=False).input_ids
            self.waiting.appendleft(one)
        else:
            one.done = True
            said = one.chain.written
            one.answer = self.policy.read(said.text, one.hits, one.answer.prompt, said.confidence)


class Decoding:
    """Greedy rows that are decoded together, and that others may join between two tokens.

    The model must be in evaluation mode.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> None:
        self.model, self.tokenizer, self.max_new_tokens = model, tokenizer, max_new_tokens
        self.rows: list[Tokens] = []
        self.cache, self.logits, self.mask = GrowingCache(model.config), torch.empty(0), torch.empty(0)

    def fit(self, prompts: Sequence[list[int]]) -> bool:
        """Whether these may join now: memory is for so many rows of the longest one's width."""
        if not self.rows and len(prompts) == 1:
            return True
        longest = max(self.mask.shape[1] if self.rows else 0, *map(len, prompts)) + self.max_new_tokens
        return self.cache.joins and (len(self.rows) + len(prompts)) * longest <= BATCH_TOKENS

    @torch.inference_mode()
    def join(self, prompts: Sequence[list[int]], lines: Sequence[bool]) -> list[Tokens]:
        """Lists that `step` appends a token to, until they end or are as long as may be; `lines` end with the first."""
        cache, logits, mask = prefill(self.model, self.tokenizer.eos_token_id, prompts)
        if self.rows:
            width = max(self.mask.shape[1], mask.shape[1])
            self.cache.join(cache, width)
            logits = torch.cat([self.logits, logits])
            mask = torch.cat([_padded(self.mask, width), _padded(mask, width)])
        else:
            self.cache = cache
        self.logits, self.mask = logits, mask
        new = list(map(Tokens, lines))
        self.rows += new
        return new

    @torch.inference_mode()
    def step(self) -> None:
        """One token for each row; those that it ends are no longer among `rows`."""
        token = choose(self.logits)[:, 0]
        likely = token_log_probs(self.logits, token)
        for row, value, log_prob in zip(self.rows, token.tolist(), likely, strict=True):
            row.append(value)
            row.log_probs.append(log_prob)
        self.keep([row for row in self.rows if not self.over(row)])
        if self.rows:
            token = torch.tensor([row[-1] for row in self.rows], device=self.mask.device)
            position = self.mask.sum(-1)
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
            self.logits = next_logits(self.model, self.cache, token, self.mask, position)

    def over(self, row: Tokens) -> bool:
        return len(row) == self.max_new_tokens or (bool(row) and row.ended(self.tokenizer))

    @torch.inference_mode()
    def keep(self, rows: Sequence[list[int]]) -> None:
        """Go on with these of the rows only."""
        wanted = set(map(id, rows))
        kept = [i for i, row in enumerate(self.rows) if id(row) in wanted]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in kept]
        if kept:
            chosen = torch.tensor(kept, device=self.mask.device)
            self.logits, self.mask = self.logits[chosen], self.mask[chosen]
            self.cache.batch_select_indices(chosen)
            # Where the longest row has left, nobody has a first token.
            unused = int(self.mask.any(0).int().argmax()) if self.cache.joins else 0
            self.mask = self.mask[:, unused:]
            self.cache.cut(unused)


def _padded(mask: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))
