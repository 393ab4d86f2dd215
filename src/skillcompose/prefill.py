"""Reading prompts into a cache, what several of them begin with only once.

Questions about the same passages begin alike, and so do those that come with the same worked examples.
"""

from collections.abc import Sequence
from itertools import pairwise, takewhile

import torch
from transformers import PreTrainedModel

from skillcompose.kernels.cache import GrowingCache
from skillcompose.kernels.head import head_at

COMMON = 32  # tokens that prompts begin with; fewer are not worth a pass of their own


def families(prompts: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """Prompts that begin alike: how many tokens they have in common, and their numbers; 0 and one number where it is
    none. The division that saves most; each prompt keeps one token of its own."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    alike = [_alike(prompts[one][:-1], prompts[other][:-1]) for one, other in pairwise(order)]
    # Of the first so many: the tokens that are saved, where the last family begins, and what it has in common.
    best = [(0, 0, 0)]
    for last in range(len(order)):
        chosen, common = (best[last][0], last, 0), len(prompts[order[last]])
        for first in range(last - 1, -1, -1):
            common = min(common, alike[first])
            if common < COMMON:
                break
            chosen = max(chosen, (best[first][0] + (last - first) * common, first, common))
        best.append(chosen)
    found, end = [], len(order)
    while end:
        _, first, common = best[end]
        found.append((common, order[first:end]))
        end = first
    return found[::-1]


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def prefill(
    model: PreTrainedModel, end: int, prompts: Sequence[list[int]]
) -> tuple[GrowingCache, torch.Tensor, torch.Tensor]:
    """The cache of left-padded prompts, the logits (P, V) behind them, and the mask (P, T) of what is no padding.

    What several prompts begin with (their passages, mostly) is computed once, where that is less work.
    """
    place = next(model.parameters()).device
    cache = GrowingCache(model.config)
    alike = families(prompts)
    # A prompt that begins like no other is cut where its rest is as long as the others' rests are.
    longest = max((len(prompts[i]) - common for common, numbers in alike if common for i in numbers), default=0)
    starts: list[list[int]] = []
    owner = [0] * len(prompts)
    for common, numbers in alike:
        first = prompts[numbers[0]]
        for i in numbers:
            owner[i] = len(starts)
        starts.append(first[: common or max(0, len(first) - longest)])
    rest = [prompt[len(starts[start]) :] for prompt, start in zip(prompts, owner, strict=True)]
    mask = torch.ones(len(prompts), 0, dtype=torch.long, device=place)
    if longest and _padded(starts) + _padded(rest) < _padded(prompts):
        _, before = _read(model, cache, end, starts, mask[: len(starts)])
        cache.batch_select_indices(torch.tensor(owner, device=place))
        mask = before[owner]
    else:
        rest = list(prompts)
    logits, mask = _read(model, cache, end, rest, mask)
    return cache, logits, cache.close_gaps(mask)


def _padded(rows: Sequence[list[int]]) -> int:
    """Tokens that are computed for rows of one batch."""
    return len(rows) * max(map(len, rows), default=0)


def _read(
    model: PreTrainedModel, cache: GrowingCache, end: int, rows: Sequence[list[int]], before: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put left-padded rows behind what the cache holds of them, as the mask `before` (B, S) says.

    Returns the logits (B, V) behind them, and the mask (B, S + T).
    """
    width = max(map(len, rows))
    ids = torch.tensor([[end] * (width - len(row)) + row for row in rows], device=before.device)
    own = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=before.device)
    mask = torch.cat([before, own], 1)
    # Not `logits_to_keep`: its slice is not contiguous, and a CPU then copies the head's weights for every prompt.
    with head_at(model, (slice(None), -1)):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, before.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        ).logits
    return logits, mask
