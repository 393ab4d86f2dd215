"""Attention as two batched products per layer: on a CPU the fastest for prompts of up to some hundred tokens.

torch's fused CPU kernel is slow backwards in bf16 and copies the keys for every query head that shares them; so does
transformers' `eager`. Here the query heads of a group stand below each other in one product. Long sequences go to the
fused kernel, which keeps no scores.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

NAME = "grouped"
LARGEST = 2**19  # scores of one head; more are left to the fused kernel


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Query (B, H, T, D), key and value (B, K, S, D), mask (B, 1, T, S) true where seen; returns (B, T, H, D)."""
    batch, heads, length, width = query.shape
    groups, size = key.shape[1], key.shape[2]
    if length * size > LARGEST:
        key, value = (states.repeat_interleave(heads // groups, 1) for states in (key, value))
        fused = torch.nn.functional.scaled_dot_product_attention
        out = fused(query, key, value, attention_mask, dropout, scale=scaling)
        return out.transpose(1, 2).contiguous(), None
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


def mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Always a mask: transformers leaves it out where sdpa has a flag of its own that says "causal"."""
    return sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False})


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, mask)
