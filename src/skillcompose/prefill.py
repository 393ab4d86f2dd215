"""Reading prompts into a cache: no padding is computed, and what several prompts begin with is computed once.

Questions about the same passages begin alike, and so do those with the same worked examples. The prompts' tokens stand
in one row, a tree whose branches see what they go on from (`attention.Span`); the cache gets a row for each prompt.
"""

from collections.abc import Sequence
from itertools import takewhile

import torch
from transformers import PreTrainedModel

from skillcompose.kernels.attention import Span
from skillcompose.kernels.cache import GrowingCache
from skillcompose.kernels.head import head_at

SHARED = 16  # tokens that prompts begin with; fewer are not worth a branch of their own


def prefill(
    model: PreTrainedModel, end: int, prompts: Sequence[list[int]]
) -> tuple[GrowingCache, torch.Tensor, torch.Tensor]:
    """The cache of left-padded prompts, the logits (P, V) behind them, and the mask (P, T) of what is no padding."""
    place = next(model.parameters()).device
    cache = GrowingCache(model.config)
    width = max(map(len, prompts))
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=place)
    # Not `logits_to_keep`: its slice is not contiguous, and a CPU then copies the head's weights for every prompt.
    if not cache.shares:
        padded = torch.tensor([[end] * (width - len(row)) + row for row in prompts], device=place)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with head_at(model, (slice(None), -1)):
            logits = model(
                input_ids=padded, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).logits
        return cache, logits, mask
    spans, ids, places = tree(prompts)
    with head_at(model, (0, [row[-1] for row in places])):
        logits = model(
            input_ids=torch.tensor([ids], device=place),
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=place),  # the spans say what is seen
            position_ids=torch.tensor([[position for span in spans for position in span.positions]], device=place),
            past_key_values=cache,
            use_cache=True,
            spans=spans,
        ).logits
    cache.spread(torch.tensor([[0] * (width - len(row)) + row for row in places], device=place))
    return cache, logits, mask


def tree(prompts: Sequence[list[int]]) -> tuple[list[Span], list[int], list[list[int]]]:
    """The branches, the tokens of all of them in a row, and for each prompt where its own stand in that row.

    Each prompt ends in a branch of its own, so its last token is nobody else's.
    """
    spans: list[Span] = []
    ids: list[int] = []
    places: list[list[int]] = [[] for _ in prompts]

    def grow(rows: list[int], read: int, before: tuple[tuple[int, int], ...]) -> None:
        """Sorted prompts whose first `read` tokens stand at `before`."""
        while rows:
            first = prompts[rows[0]]
            alike = 1
            while alike < len(rows) and common(first, prompts[rows[alike]]) >= read + SHARED:
                alike += 1
            upto = len(first) if alike == 1 else common(first, prompts[rows[alike - 1]])
            span = Span(len(ids), len(ids) + upto - read, before)
            spans.append(span)
            ids.extend(first[read:upto])
            path = (*before, (span.begin, span.end))
            if alike > 1:
                grow(rows[:alike], upto, path)
            else:
                places[rows[0]] = [place for begin, end in path for place in range(begin, end)]
            rows = rows[alike:]

    grow(sorted(range(len(prompts)), key=prompts.__getitem__), 0, ())
    return spans, ids, places


def together(prompts: Sequence[list[int]]) -> list[int]:
    """Their numbers, those that begin alike beside each other, otherwise by length."""
    longest: dict[tuple[int, ...], int] = {}
    for row in prompts:
        start = tuple(row[:SHARED])
        longest[start] = max(longest.get(start, 0), len(row))
    return sorted(range(len(prompts)), key=lambda i: (longest[tuple(prompts[i][:SHARED])], prompts[i]))


def common(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with and go on from."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one[:-1], other[:-1], strict=False)))
