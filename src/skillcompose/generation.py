"""Sampling and greedy decoding that prefill each prompt once and drop rows that have finished.

`transformers.generate` prefills every copy of a prompt and computes finished rows to the end; with passages in the
prompt that is most of the work. Here a group shares its prompt's keys and values, which is exact.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.kernels.cache import GrowingCache
from skillcompose.kernels.head import head_at
from skillcompose.progress import Progress

COMMON = 64  # tokens that all prompts begin with; fewer are not worth a pass of their own
BATCH_TOKENS = 12_000  # prompts and answers of one batch, padding included


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy; a row whose ids are `lost` is not gone on with, and ends there."""

    max_new_tokens: int
    temperature: float = 0.0
    lost: Callable[[list[int]], bool] | None = None


def answer_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    progress: Progress | None = None,
    what: str = "answering",
) -> list[str]:
    """One greedy completion per prompt, in the order of the prompts."""
    encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    texts = [""] * len(prompts)
    batches: list[list[int]] = []
    for i in order:
        if not batches or (len(batches[-1]) + 1) * (len(encoded[i]) + max_new_tokens) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    for batch in (progress or Progress()).each(batches, what, len(batches)) if progress else batches:
        rows = generate(model, tokenizer, [encoded[i] for i in batch], 1, Sampling(max_new_tokens))
        for i, ids in zip(batch, rows, strict=True):
            texts[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return texts


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    num_generations: int,
    sampling: Sampling,
) -> list[list[int]]:
    """Complete tokenised prompts, `num_generations` times each, group by group.

    Sampled tokens come from torch's global generator, so a trainer's checkpoint reproduces them.

    Returns:
        `len(prompts) * num_generations` lists of token ids, the end token included where it was reached.
    """
    rows: list[list[int]] = []
    was_training = model.training
    model.eval()
    try:
        for rows in steps(model, tokenizer, prompts, num_generations, sampling):  # noqa: B007
            pass
    finally:
        model.train(was_training)
    return rows


@torch.inference_mode()
def steps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    num_generations: int,
    sampling: Sampling,
) -> Iterator[list[list[int]]]:
    """As `generate`, with the rows after every token: always the same lists, which grow.

    The model must be in evaluation mode.
    """
    place = next(model.parameters()).device
    end = tokenizer.eos_token_id
    cache, logits, mask = _prefill(model, end, prompts)
    group = cache.repeat(num_generations)
    logits = logits.repeat_interleave(num_generations, 0)
    mask = mask.repeat_interleave(num_generations, 0)
    position = mask.sum(-1)
    rows: list[list[int]] = [[] for _ in range(len(logits))]
    alive = list(range(len(rows)))
    for step in range(sampling.max_new_tokens):
        token = _choose(logits, sampling.temperature)
        for row, value in zip(alive, token.tolist(), strict=True):
            if not rows[row] or rows[row][-1] != end:
                rows[row].append(value)
                if sampling.lost and value != end and sampling.lost(rows[row]):
                    rows[row].append(end)
        yield rows
        finished = [rows[row][-1] == end for row in alive]
        if all(finished) or step + 1 == sampling.max_new_tokens:
            break
        # Prompts keep equally many rows: a finished one fills the place of one that another prompt still needs.
        parts = [sorted(range(i, i + group), key=finished.__getitem__) for i in range(0, len(alive), group)]
        needed = [number for number, part in enumerate(parts) if not finished[part[0]]]
        most = max(sum(not finished[i] for i in part) for part in parts)
        # Selecting copies the cache, so wait until an eighth of the rows can go.
        if len(needed) * most <= len(alive) * 7 // 8:
            kept = [i for number in needed for i in parts[number][:most]]
            keep, group = torch.tensor(kept, device=place), most
            cache.keep(torch.tensor(needed, device=place), keep)
            alive = [alive[i] for i in kept]
            token, mask, position = token[keep], mask[keep], position[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = _next(model, cache, token, mask, position)
        position = position + 1


class Decoding:
    """Greedy rows that are decoded together, and that others may join between two tokens.

    The model must be in evaluation mode.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> None:
        self.model, self.end, self.max_new_tokens = model, tokenizer.eos_token_id, max_new_tokens
        self.rows: list[list[int]] = []
        self.cache, self.logits, self.mask = GrowingCache(model.config), torch.empty(0), torch.empty(0)

    def fit(self, prompts: Sequence[list[int]]) -> bool:
        """Whether these may join now: memory is for so many rows of the longest one's width."""
        if not self.rows and len(prompts) == 1:
            return True
        longest = max(self.mask.shape[1] if self.rows else 0, *map(len, prompts)) + self.max_new_tokens
        return self.cache.joins and (len(self.rows) + len(prompts)) * longest <= BATCH_TOKENS

    @torch.inference_mode()
    def join(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        """Lists that `step` appends a token to, until they end or are as long as they may be."""
        cache, logits, mask = _prefill(self.model, self.end, prompts)
        if self.rows:
            width = max(self.mask.shape[1], mask.shape[1])
            self.cache.join(cache, width)
            logits = torch.cat([self.logits, logits])
            mask = torch.cat([_padded(self.mask, width), _padded(mask, width)])
        else:
            self.cache = cache
        self.logits, self.mask = logits, mask
        new: list[list[int]] = [[] for _ in prompts]
        self.rows += new
        return new

    @torch.inference_mode()
    def step(self) -> None:
        """One token for each row; those that it ends are no longer among `rows`."""
        for row, value in zip(self.rows, self.logits.argmax(-1).tolist(), strict=True):
            row.append(value)
        self.keep([row for row in self.rows if not self.over(row)])
        if self.rows:
            token, position = self.logits.argmax(-1), self.mask.sum(-1)
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
            self.logits = _next(self.model, self.cache, token, self.mask, position)

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


def _prefill(
    model: PreTrainedModel, end: int, prompts: Sequence[list[int]]
) -> tuple[GrowingCache, torch.Tensor, torch.Tensor]:
    """The cache of left-padded prompts, the logits (P, V) behind them, and the mask (P, T) of what is no padding."""
    place = next(model.parameters()).device
    cache = GrowingCache(model.config)
    common = _common(prompts)
    if common:
        with head_at(model, (slice(None), -1)):
            model(input_ids=torch.tensor([prompts[0][:common]], device=place), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(prompts))
    rest = [row[common:] for row in prompts]
    width = max(map(len, rest))
    ids = torch.tensor([[end] * (width - len(row)) + row for row in rest], device=place)
    mask = torch.tensor([[1] * common + [0] * (width - len(row)) + [1] * len(row) for row in rest], device=place)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, common:]
    # Not `logits_to_keep`: its slice is not contiguous, and a CPU then copies the head's weights for every prompt.
    with head_at(model, (slice(None), -1)):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits
    return cache, logits, mask


def _next(
    model: PreTrainedModel, cache: GrowingCache, token: torch.Tensor, mask: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """The logits (B, V) behind one more token (B,); `mask` (B, T) counts it already."""
    logits: torch.Tensor = model(
        input_ids=token[:, None],
        attention_mask=mask[:, None, None].bool() if cache.shares else mask,
        position_ids=position[:, None],
        past_key_values=cache,
        use_cache=True,
    ).logits[:, -1]
    return logits


def _padded(mask: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))


def _common(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; each keeps one of its own."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*(row[:-1] for row in prompts), strict=False))
    count = sum(1 for _ in same) if len(prompts) > 1 else 0
    return count if count >= COMMON else 0


def _choose(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token a row. Not `multinomial`: it draws a number for every token of the vocabulary."""
    if temperature == 0:
        return logits.argmax(-1)
    upto = torch.softmax(logits.float() / temperature, -1).cumsum(-1)
    # In (0, total], so that a token of probability zero is never found.
    drawn = (1 - torch.rand(len(upto), 1, device=upto.device)) * upto[:, -1:]
    return torch.searchsorted(upto, drawn)[:, 0]
