"""Attention as two batched products per layer: on a CPU the fastest for prompts of up to some hundred tokens.

torch's fused CPU kernel is slow backwards in bf16 and copies the keys for every query head that shares them; so does
transformers' `eager`. Here the query heads of a group stand below each other in one product. Long sequences go to the
fused kernel, which keeps no scores, and prompts that are read without a gradient.

While a group is sampled, its prompt's keys and values are there once (`Shared`), and all rows' queries meet them in
one product: copies would be read from memory again for every token of every row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

NAME = "grouped"
LARGEST = {torch.float32: 2**17, torch.bfloat16: 2**19}
"""Scores of one head; more are left to the fused kernel, which is worth it later in bf16."""


class Shared(NamedTuple):
    """Keys or values that G neighbouring rows share, (P, K, S, D), and those of each row, (P * G, K, N, D)."""

    prefix: torch.Tensor
    own: torch.Tensor


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of a row that see what stands at `before`, themselves up to each, and nothing else."""

    begin: int
    end: int
    before: tuple[tuple[int, int], ...] = ()

    @property
    def positions(self) -> range:
        first = sum(end - begin for begin, end in self.before)
        return range(first, first + self.end - self.begin)

    @cached_property
    def mask(self) -> torch.Tensor:
        at = self.positions
        return torch.ones(1, 1, len(at), at.stop, dtype=torch.bool).tril(at.start)

    def seen(self, states: torch.Tensor) -> torch.Tensor:
        """Of keys or values (1, K, T, D)."""
        return torch.cat([states[:, :, begin:end] for begin, end in (*self.before, (self.begin, self.end))], 2)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: Any,
    value: Any,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    spans: Sequence[Span] = (),
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Query (B, H, T, D), key and value (B, K, S, D), mask (B, 1, T, S) true where seen; returns (B, T, H, D).

    Key and value may be `Shared`, and longer than the mask: what is behind it is room for more tokens. With `spans` the
    mask does not count: they say what each part of the one row sees.
    """
    if spans:
        return torch.cat([_attend_span(span, query, key, value, scaling) for span in spans], 1), None
    if isinstance(key, Shared):
        return _attend_shared(query, key, value, attention_mask, scaling), None
    batch, heads, length, width = query.shape
    groups, size = key.shape[1], key.shape[2]
    if attention_mask is not None and attention_mask.shape[-1] < size:
        attention_mask = torch.nn.functional.pad(attention_mask, (0, size - attention_mask.shape[-1]))
    if length * size > LARGEST.get(query.dtype, LARGEST[torch.bfloat16]):
        key, value = (states.repeat_interleave(heads // groups, 1) for states in (key, value))
        return _attend_long(query, key, value, attention_mask, scaling, dropout).transpose(1, 2).contiguous(), None
    scale = width**-0.5 if scaling is None else scaling
    rows = (query * scale).reshape(batch * groups, heads // groups * length, width)
    scores = torch.bmm(rows, key.reshape(batch * groups, size, width).transpose(1, 2))
    if attention_mask is not None:
        # Out of autograd's sight: bmm does not need its own result backwards, and the softmax has no gradient there.
        shaped = scores.detach().view(batch, heads, length, size)
        shaped.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    weights = torch.nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    out = torch.bmm(weights, value.reshape(batch * groups, size, width))
    return out.view(batch, heads, length, width).transpose(1, 2), None


def _attend_long(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float | None, dropout: float
) -> torch.Tensor:
    """The fused kernel; told that the first tokens see all before them, it leaves out the half that they do not see."""
    fused = partial(torch.nn.functional.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    first = 0 if mask is None or mask.shape[-2] != mask.shape[-1] else _causal(mask)
    if first < query.shape[2] // 4:
        return fused(query, key, value, mask)
    prefix = fused(query[:, :, :first], key[:, :, :first], value[:, :, :first], is_causal=True)
    return torch.cat([prefix, fused(query[:, :, first:], key, value, mask[:, :, first:])], 2)


@lru_cache(maxsize=1)  # every layer asks about the same tensor
def _causal(mask: torch.Tensor) -> int:
    """How many tokens at the beginning see, in every row, all that stands before them, themselves, and nothing else."""
    plain = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).tril()
    return int((mask == plain).all(-1).all(0).all(0).cumprod(0).sum())


def _attend_span(
    span: Span, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Without gradient: forwards the fused kernel is the faster one, above all where nothing is before the span."""
    asked = query[:, :, span.begin : span.end]
    mask = span.mask if span.before else None
    out = torch.nn.functional.scaled_dot_product_attention(
        asked, span.seen(key), span.seen(value), mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2)


def _attend_shared(
    query: torch.Tensor, key: Shared, value: Shared, attention_mask: Any, scaling: float | None
) -> torch.Tensor:
    """One new token a row: query (P * G, H, 1, D), mask (P * G, 1, 1, S + N); all of a row's own N are seen."""
    batch, heads, _, width = query.shape
    prompts, groups, size, _ = key.prefix.shape
    own = (query * (width**-0.5 if scaling is None else scaling)).reshape(batch * groups, heads // groups, width)

    def below(rows: torch.Tensor) -> torch.Tensor:
        """(P * G * K, h, X) as (P * K, G * h, X): what meets the same keys."""
        parts = rows.view(prompts, batch // prompts, groups, *rows.shape[1:])
        return parts.transpose(1, 2).reshape(prompts * groups, -1, rows.shape[-1])

    def beside(rows: torch.Tensor) -> torch.Tensor:
        parts = rows.view(prompts, groups, batch // prompts, -1, rows.shape[-1])
        return parts.transpose(1, 2).reshape(batch * groups, -1, rows.shape[-1])

    def flat(states: torch.Tensor) -> torch.Tensor:
        return states.reshape(-1, *states.shape[2:])

    first = torch.bmm(below(own), flat(key.prefix).transpose(1, 2))
    known, least = attention_mask.shape[-1], torch.finfo(first.dtype).min
    unseen = ~attention_mask.view(prompts, -1, known)[:, :1, None, :size]
    first.view(prompts, groups, -1, size).masked_fill_(unseen, least)
    second = torch.bmm(own, flat(key.own).transpose(1, 2))
    second[..., known - size :] = least
    weights = torch.cat([first, below(second)], -1).softmax(-1)
    out = beside(torch.bmm(weights[..., :size], flat(value.prefix)))
    return out.baddbmm_(beside(weights[..., size:]), flat(value.own)).view(batch, 1, heads, width)


def mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Always a mask: transformers leaves it out where sdpa has a flag of its own that says "causal"."""
    return sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False})


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, mask)
