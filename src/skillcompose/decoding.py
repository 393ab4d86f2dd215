"""Greedy decoding of rows that come and go: what answers while it is being asked."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.generation import BATCH_TOKENS, Tokens, choose, next_logits, token_log_probs
from skillcompose.kernels.cache import GrowingCache
from skillcompose.prefill import prefill


class Decoding:
    """Greedy rows that are decoded together, and that others may join between two tokens.

    The model must be in evaluation mode.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> None:
        self.model, self.end, self.max_new_tokens = model, tokenizer.eos_token_id, max_new_tokens
        self.rows: list[Tokens] = []
        self.cache, self.logits, self.mask = GrowingCache(model.config), torch.empty(0), torch.empty(0)

    def fit(self, prompts: Sequence[list[int]]) -> bool:
        """Whether these may join now: memory is for so many rows of the longest one's width."""
        if not self.rows and len(prompts) == 1:
            return True
        longest = max(self.mask.shape[1] if self.rows else 0, *map(len, prompts)) + self.max_new_tokens
        return self.cache.joins and (len(self.rows) + len(prompts)) * longest <= BATCH_TOKENS

    @torch.inference_mode()
    def join(self, prompts: Sequence[list[int]]) -> list[Tokens]:
        """Lists that `step` appends a token to, until they end or are as long as they may be."""
        cache, logits, mask = prefill(self.model, self.end, prompts)
        if self.rows:
            width = max(self.mask.shape[1], mask.shape[1])
            self.cache.join(cache, width)
            logits = torch.cat([self.logits, logits])
            mask = torch.cat([_padded(self.mask, width), _padded(mask, width)])
        else:
            self.cache = cache
        self.logits, self.mask = logits, mask
        new = [Tokens() for _ in prompts]
        self.rows += new
        return new

    @torch.inference_mode()
    def step(self) -> None:
        """One token for each row; those that it ends are no longer among `rows`."""
        token = choose(self.logits)[:, 0]
        likely = token_log_probs(self.logits, token)
        for row, value, log_prob in zip(self.rows, token.tolist(), likely, strict=True):
            row.append(value)
            row.log_prob += log_prob
        self.keep([row for row in self.rows if not self.over(row)])
        if self.rows:
            token = torch.tensor([row[-1] for row in self.rows], device=self.mask.device)
            position = self.mask.sum(-1)
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
            self.logits = next_logits(self.model, self.cache, token, self.mask, position)

    def over(self, row: list[int]) -> bool:
        return len(row) == self.max_new_tokens or (bool(row) and row[-1] == self.end)

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
