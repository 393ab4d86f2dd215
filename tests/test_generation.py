"""Rows that are decoded together give what each would give alone."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from skillcompose.generation import Sampling, Tokens, Written, choose, completions, generate, written
from skillcompose.live import Live
from skillcompose.models import load_base


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
    assert [said.text for said in completions(model, tokenizer, prompts, 20)] == [text.strip() for text in expected]


def test_an_answers_confidence_is_the_probability_of_its_tokens(tiny_model: Path) -> None:
    model, tokenizer = load_base(str(tiny_model)), AutoTokenizer.from_pretrained(tiny_model)
    prompts = ["Question: What is the size of brol?\nAnswer:\n", "Is it?"]
    for text, said in zip(prompts, completions(model, tokenizer, prompts, 6), strict=True):
        start = tokenizer(text, add_special_tokens=False).input_ids
        (ids,) = generate(model, tokenizer, [start], 1, Sampling(6))
        likely = model(torch.tensor([start + ids])).logits[0, len(start) - 1 : -1].softmax(-1)
        assert said.confidence == pytest.approx(likely[range(len(ids)), ids].prod().item(), rel=1e-3)
        assert 0 < said.confidence < 1


def test_each_line_has_its_own_probability(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = Tokens()
    for line, log_prob in (("\n", -9.0), ("brol needs fenk.\n", -1.0), ("\n", -2.0), ("So: fenk", -3.0), ("\n", -9.0)):
        new = tokenizer(line, add_special_tokens=False).input_ids
        ids += new
        ids.log_probs += [log_prob] + [0.0] * (len(new) - 1)
    said = written(tokenizer, ids)
    assert said.text == "brol needs fenk.\n\nSo: fenk"
    assert said.lines == pytest.approx([math.exp(-10), math.exp(-2), math.exp(-12)])


def test_a_line_is_the_first_one_of_the_completion(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_base(str(tiny_model)), AutoTokenizer.from_pretrained(tiny_model)
    script: list[int] = tokenizer("\nbrol needs fenk.\nSo: fenk", add_special_tokens=False).input_ids
    script.append(tokenizer.eos_token_id)
    taken: list[int] = []

    def scripted(logits: torch.Tensor, temperature: float) -> torch.Tensor:
        taken.append(script[len(taken)])
        return torch.full((len(logits), 1), taken[-1])

    def said(max_new_tokens: int, line: bool) -> Written:
        taken.clear()
        return completions(model, tokenizer, ["Is it?"], max_new_tokens, line=line)[0]

    monkeypatch.setattr("skillcompose.generation.choose", scripted)
    whole, line, cut = said(40, line=False), said(40, line=True), said(4, line=True)
    assert whole.text == "brol needs fenk.\nSo: fenk"
    assert line.text == "brol needs fenk." and line.lines == pytest.approx(whole.lines[:1])
    assert cut.text == ""
    assert len(taken) == 4


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


def test_a_step_for_nobody_is_none() -> None:
    model, tokenizer = SimpleNamespace(config=LlamaConfig()), SimpleNamespace(eos_token_id=0)
    live = Live(SimpleNamespace(model=model, tokenizer=tokenizer, max_new_tokens=4))
    live.step()
    assert not live.growing
