"""Sampling and greedy decoding that prefill each prompt once and drop rows that have finished.

`transformers.generate` prefills every copy of a prompt and computes finished rows to the end; with passages in the
prompt that is most of the work. Here a group shares its prompt's keys and values, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from skillcompose.kernels import attention
from skillcompose.kernels.head import head_at
from skillcompose.progress import Progress

ROOM = 64  # tokens
BATCH_TOKENS = 12_000  # prompts and answers of one batch, padding included


class GrowingLayer(DynamicLayer):
    """Keys and values with room for more tokens: concatenating copies the whole cache for each of them."""

    room: tuple[torch.Tensor, torch.Tensor] | None = None
    prefix: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        old, (batch, heads, new, width) = self.keys.shape[2], key_states.shape
        if self.room is None or old + new > self.room[0].shape[2]:
            room = [states.new_empty(batch, heads, old + new + ROOM, width) for states in (key_states, value_states)]
            if old:
                room[0][:, :, :old], room[1][:, :, :old] = self.keys, self.values
            self.room = room[0], room[1]
        keys, values = self.room
        keys[:, :, old : old + new], values[:, :, old : old + new] = key_states, value_states
        self.keys, self.values = keys[:, :, : old + new], values[:, :, : old + new]
        if self.prefix is None:
            return self.keys, self.values
        return attention.Shared(self.prefix[0], self.keys), attention.Shared(self.prefix[1], self.values)

    def get_seq_length(self) -> int:
        return super().get_seq_length() + (self.prefix[0].shape[2] if self.prefix else 0)

    def share(self, rows: int) -> None:
        """Go on with `rows` rows for each one; they have in common what is there now."""
        batch, heads, _, width = self.keys.shape
        self.prefix, self.room = (self.keys, self.values), None
        self.keys = self.values = self.keys.new_empty(batch * rows, heads, 0, width)

    def keep_prefixes(self, indices: torch.Tensor) -> None:
        if self.prefix is not None:
            self.prefix = self.prefix[0][indices], self.prefix[1][indices]

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.room = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.keys, self.values, self.room = self.keys[indices], self.values[indices], None


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy."""

    max_new_tokens: int
    temperature: float = 0.0


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


@torch.no_grad()
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
    was_training = model.training
    model.eval()
    try:
        return _generate(model, tokenizer, prompts, num_generations, sampling)
    finally:
        model.train(was_training)


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    num_generations: int,
    sampling: Sampling,
) -> list[list[int]]:
    place = next(model.parameters()).device
    end = tokenizer.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[end] * (width - len(row)) + row for row in prompts], device=place)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=place)
    cache: Any = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    # Not `logits_to_keep`: its slice is not contiguous, and a CPU then copies the head's weights for every prompt.
    with head_at(model, (slice(None), -1)):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits
    # Other kernels take only tensors of keys: there each row has its own prompt.
    growing = all(isinstance(layer, GrowingLayer) for layer in cache.layers)
    ours = growing and model.config._attn_implementation == attention.NAME
    group = num_generations if ours else 1
    if num_generations > 1:
        if ours:
            for layer in cache.layers:
                layer.share(num_generations)
        else:
            cache.batch_repeat_interleave(num_generations)
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
            cache.batch_select_indices(keep)
            if ours:
                for layer in cache.layers:
                    layer.keep_prefixes(torch.tensor(needed, device=place))
            alive = [alive[i] for i in kept]
            token, mask, position = token[keep], mask[keep], position[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = model(
            input_ids=token[:, None],
            attention_mask=mask[:, None, None].bool() if ours else mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        position = position + 1
    return rows


def _choose(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token a row. Not `multinomial`: it draws a number for every token of the vocabulary."""
    if temperature == 0:
        return logits.argmax(-1)
    upto = torch.softmax(logits.float() / temperature, -1).cumsum(-1)
    # In (0, total], so that a token of probability zero is never found.
    drawn = (1 - torch.rand(len(upto), 1, device=upto.device)) * upto[:, -1:]
    return torch.searchsorted(upto, drawn)[:, 0]
