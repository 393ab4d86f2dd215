"""Prompts read once and decoded together give what each would give alone."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from skillcompose.generation import Sampling, answer_texts, choose, generate, next_logits
from skillcompose.models import load_base
from skillcompose.prefill import COMMON, families, prefill


@pytest.mark.parametrize("before", ["", "The same worked example in every prompt. " * 12])
@pytest.mark.parametrize("names", [["brol", "a much longer name", "fenk"], ["one"]])
def test_greedy_decoding_equals_transformers(tiny_model: Path, names: list[str], before: str) -> None:
    model, tokenizer = load_base(str(tiny_model)), AutoTokenizer.from_pretrained(tiny_model)
    prompts = [f"{before}Question: What is the size of {name}?\nAnswer:\n" for name in names]
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    stock = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    rows = stock.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=20, do_sample=False
    )
    expected = tokenizer.batch_decode(rows[:, batch.input_ids.size(1) :], skip_special_tokens=True)
    assert answer_texts(model, tokenizer, prompts, 20) == [text.strip() for text in expected]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([2.0, -torch.inf, 0.0, 1.0])
    drawn = choose(logits.repeat(20_000, 1), 0.5)[:, 0].bincount(minlength=4) / 20_000
    torch.testing.assert_close(drawn, torch.softmax(logits / 0.5, -1), atol=0.01, rtol=0.0)
    assert drawn[1] == 0


def test_rows_of_a_group_see_what_they_would_see_alone(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_base(str(tiny_model)), AutoTokenizer.from_pretrained(tiny_model)
    prompts = [tokenizer(text).input_ids for text in ("What is it?", "And a longer question, is it?", "Is it?")]
    seen: list[torch.Tensor] = []

    def soon_over(logits: torch.Tensor, temperature: float) -> torch.Tensor:
        seen.append(logits)
        likely_end = logits.clone()
        likely_end[:, tokenizer.eos_token_id] += 5
        return choose(likely_end, temperature)

    monkeypatch.setattr("skillcompose.generation.choose", soon_over)
    torch.manual_seed(3)
    rows = generate(model, tokenizer, prompts, 4, Sampling(30, 1.0))
    assert len({len(row) for row in rows}) > 3, "rows must end at different steps"
    assert len(seen[-1]) < len(seen[0]), "finished rows must go"
    for number, row in enumerate(rows):
        prompt = prompts[number // 4]
        alone = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        for logits, expected in zip(seen, alone, strict=False):
            assert (logits - expected).abs().amax(-1).min() < 1e-4


def test_sampled_groups_have_the_asked_size_and_follow_the_seed(tiny_model: Path) -> None:
    model, tokenizer = load_base(str(tiny_model)), AutoTokenizer.from_pretrained(tiny_model)
    prompts = [tokenizer(text).input_ids for text in ("What is it?", "And a longer question, is it?")]
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        draws.append(generate(model, tokenizer, prompts, 3, Sampling(12, 1.0)))
    assert draws[0] == draws[1]
    assert len(draws[0]) == 6
    assert len({tuple(row) for row in draws[0][:3]}) > 1


def alike(rng: random.Random, *sizes: tuple[int, int, int]) -> list[list[int]]:
    """For each `(prompts, common, own)` so many that begin alike, with up to so many tokens of their own."""
    found = []
    for prompts, common, own in sizes:
        start = rng.choices(range(1, 200), k=common)
        found += [start + rng.choices(range(1, 200), k=rng.randint(1, own)) for _ in range(prompts)]
    return rng.sample(found, len(found))


@pytest.mark.parametrize(
    "sizes",
    [
        [(5, 60, 9)],
        [(4, 60, 9), (3, 40, 20), (1, 90, 1), (1, 1, 2)],
        [(4, COMMON - 1, 9), (2, 1, 80)],
        [(1, 50, 5)],
    ],
)
@pytest.mark.parametrize("kernel", ["grouped", "sdpa"])
def test_prompts_that_begin_alike_are_read_once_and_go_on_as_if_read_alone(
    tiny_model: Path, sizes: list[tuple[int, int, int]], kernel: str
) -> None:
    model = load_base(str(tiny_model))
    model.set_attn_implementation(kernel)
    computed: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: computed.append(inputs[0].numel()))
    prompts = alike(random.Random(0), *sizes)
    with torch.inference_mode():
        cache, logits, mask = prefill(model, 0, prompts)
        padded = len(prompts) * max(map(len, prompts))
        assert (
            sum(computed) < 0.7 * padded if max(size[0] * size[1] for size in sizes) > 150 else sum(computed) == padded
        )
        assert mask.shape[1] == max(map(len, prompts)) and mask.sum(1).tolist() == [len(row) for row in prompts]
        token, position = logits.argmax(-1), mask.sum(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        following = next_logits(model, cache, token, mask, position)
        for row, next_token, *found in zip(prompts, token.tolist(), logits, following, strict=True):
            expected = model(torch.tensor([[*row, next_token]])).logits[0, -2:]
            torch.testing.assert_close(torch.stack(found), expected, atol=1e-4, rtol=1e-4)


def test_families_share_what_saves_most() -> None:
    few, more = [*range(COMMON)], [*range(COMMON), *range(500, 500 + 3 * COMMON)]
    assert families([[1], [2]]) == [(0, [0]), (0, [1])]
    assert families([[*few, 1], [*few, 2]]) == [(COMMON, [0, 1])]
    assert families([[*more, 1], [*more, 2], [*more, 3], [*few, 7]]) == [(0, [3]), (4 * COMMON, [0, 1, 2])]
    assert families([few, few]) == [(0, [0]), (0, [1])], "each keeps a token of its own, and the rest is too little"
