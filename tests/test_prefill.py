"""Prompts are read without padding and what they begin with once, and go on as if each had been read alone."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from skillcompose.generation import next_logits
from skillcompose.models import load_base
from skillcompose.prefill import SHARED, prefill, together, tree


def alike(*sizes: tuple[int, int, int]) -> list[list[int]]:
    """For each `(prompts, common, own)` so many that begin alike, with up to so many tokens of their own."""
    rng, found = random.Random(0), []
    for prompts, common, own in sizes:
        start = rng.choices(range(1, 200), k=common)
        found += [start + rng.choices(range(1, 200), k=rng.randint(1, own)) for _ in range(prompts)]
    return rng.sample(found, len(found))


EXAMPLES, PASSAGES = [*range(1, 40)], [*range(60, 90)]
NESTED = [[*EXAMPLES, *PASSAGES, 7], [*EXAMPLES, *PASSAGES, 8, 9], [*EXAMPLES, 3], [5], [*EXAMPLES, *PASSAGES, 7]]


@pytest.mark.parametrize(
    "prompts",
    [
        alike((5, 60, 9)),
        alike((4, 60, 9), (3, 40, 20), (1, 90, 1), (1, 1, 2)),
        alike((4, SHARED - 1, 9), (2, 1, 80)),
        alike((1, 50, 5)),
        NESTED,
    ],
)
@pytest.mark.parametrize("kernel", ["grouped", "fused", "sdpa"])
def test_prompts_go_on_as_if_read_alone(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, prompts: list[list[int]], kernel: str
) -> None:
    model = load_base(str(tiny_model))
    if kernel == "fused":
        monkeypatch.setattr("skillcompose.kernels.attention.LARGEST", {torch.float32: 0, torch.bfloat16: 0})
    elif kernel == "sdpa":
        model.set_attn_implementation(kernel)
    computed: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: computed.append(inputs[0].numel()))
    with torch.inference_mode():
        cache, logits, mask = prefill(model, 0, prompts)
        # Others than our attention get padded rows.
        assert sum(computed) == (mask.numel() if kernel == "sdpa" else len(tree(prompts)[1]))
        assert mask.shape[1] == max(map(len, prompts)) and mask.sum(1).tolist() == [len(row) for row in prompts]
        token, position = logits.argmax(-1), mask.sum(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        following = next_logits(model, cache, token, mask, position)
        for row, next_token, *found in zip(prompts, token.tolist(), logits, following, strict=True):
            expected = model(torch.tensor([[*row, next_token]])).logits[0, -2:]
            torch.testing.assert_close(torch.stack(found), expected, atol=1e-4, rtol=1e-4)


def read(prompts: list[list[int]]) -> Iterator[list[int]]:
    spans, ids, places = tree(prompts)
    assert sorted((span.begin, span.end) for span in spans) == [(span.begin, span.end) for span in spans]
    assert spans[0].begin == 0 and spans[-1].end == len(ids)
    for place in places:
        yield [ids[i] for i in place]


def test_what_prompts_begin_with_stands_there_once() -> None:
    assert list(read(NESTED)) == NESTED
    spans, ids, _ = tree(NESTED)
    assert len(ids) == len(EXAMPLES) + len(PASSAGES) + 6
    assert max(len(span.before) for span in spans) == 2, "passages behind the examples"
    few = [*range(SHARED - 1)]
    assert len(tree([[*few, 1], [*few, 2]])[1]) == 2 * SHARED, "too little to share"
    assert len(tree([[*few, 0], [*few, 0]])[1]) == 2 * SHARED, "each goes on from a token of its own"
    assert len(tree([[*few, 0, 1], [*few, 0, 1]])[1]) == SHARED + 2


def test_prompts_that_begin_alike_stand_together_and_the_others_by_length() -> None:
    long, short = [*range(100)], [500] * 5
    assert together([[*long, 1, 1], short, [7] * 50, [*long, 2], short[:2]]) == [4, 1, 2, 0, 3]
