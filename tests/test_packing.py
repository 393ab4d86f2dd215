"""Rows as they are trained: packed behind shared passages, in batches, in the blocks of consolidation."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
)

from skillcompose.adapters.general import ANSWER_TOKENS, read_general, write_general
from skillcompose.adapters.sft import training_order
from skillcompose.composition.mixture import Mixture
from skillcompose.generation import completions
from skillcompose.models import load_base, new_adapter
from skillcompose.packing import IGNORED, Group, Row, by_passages, collate, group, packed
from skillcompose.progress import Progress
from skillcompose.training import label_losses
from skillcompose.types import Passage, Question, Skill, read_jsonl


def test_rows_packed_behind_shared_passages_train_as_they_would_alone(tiny_model: Path) -> None:
    model, tokenizer = load_base(str(tiny_model)).requires_grad_(True), AutoTokenizer.from_pretrained(tiny_model)
    block = "[1] brol: brol is red.\n[2] fenk: fenk is blue.\n\n"
    rows = [
        Row(f"{block}Question: Who?\nAnswer:\n", "Ann.\nSo: Ann", True),
        Row("Question: What is it?\nAnswer:\n", "So: x", False),
        Row(f"{block}Question: What is brol?\nAnswer:\n", "red", True),
    ]

    def loss_and_gradient(groups: list[Group]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = collate([packed(group, tokenizer) for group in groups])
        model.zero_grad()
        labels = batch.pop("labels")
        logs = torch.log_softmax(model(**batch).logits, -1)[:, :-1]
        wanted = labels[:, 1:]
        loss = -(logs.gather(-1, wanted.clamp(min=0)[..., None])[..., 0] * (wanted >= 0)).sum()
        loss.backward()
        return loss.detach(), model.model.layers[0].mlp.down_proj.weight.grad.clone()

    alone = [[row] for row in rows]
    torch.testing.assert_close(loss_and_gradient([rows]), loss_and_gradient(alone), atol=1e-4, rtol=1e-4)
    assert len(packed(rows, tokenizer)["input_ids"]) < sum(len(packed(g, tokenizer)["input_ids"]) for g in alone)


def test_no_sequence_grows_with_the_number_of_questions_about_the_same_passages() -> None:
    shown = (Passage("p", "brol", "brol is red.", "a.md", "brol"),)
    questions = [
        Question(str(n), f"Who is {n}?", ("x",), f"So: {n}", Skill.CONTEXTUAL, "size", ("f",), passages=passages)
        for n, passages in enumerate([*[shown] * 20, (), ()])
    ]
    groups = by_passages(questions)
    assert [len(group) for group in groups] == [8, 8, 4, 1, 1]
    assert [row.completion for group in groups for row in group] == [question.completion for question in questions]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_longer_than_a_window_are_trained_as_the_model_reads_them(tiny_model: Path, attention: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=6,
        sliding_window_pattern=2,
        **shape,
    )
    model = Gemma3ForCausalLM(config).eval()
    model.set_attn_implementation(attention)
    block = "[1] brol: brol is red and fenk is blue.\n\n"
    rows = [Row(f"{block}Question: Who?\nAnswer:\n", f"It is {name}.\nSo: {name}", True) for name in ("Ann", "Bo")]
    losses = label_losses(model, model, collate([packed(rows, tokenizer)]))
    ids = [tokenizer(row.prompt + row.completion + "<end>", return_tensors="pt").input_ids for row in rows]
    sizes = [len(tokenizer(row.completion + "<end>").input_ids) for row in rows]
    plain = [
        -model(one).logits[0, :-1].log_softmax(-1).gather(-1, one[0, 1:, None])[-size:, 0]
        for one, size in zip(ids, sizes, strict=True)
    ]
    assert all(one.shape[1] > 2 * config.sliding_window for one in ids)
    torch.testing.assert_close(losses, torch.cat(plain))


def test_models_that_add_their_mask_train_as_those_that_choose_by_it(tiny_model: Path) -> None:
    model, tokenizer = load_base(str(tiny_model)), AutoTokenizer.from_pretrained(tiny_model)
    rows = [Row("[1] a: b\n\nQuestion: Who?\nAnswer:\n", f"It is {name}.\nSo: {name}", True) for name in ("Ann", "Bo")]
    batch = collate([packed(rows, tokenizer), packed(rows[:1], tokenizer)])
    losses = []
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        losses.append(label_losses(model, model, batch))
    torch.testing.assert_close(*losses)


def test_batches_of_training_are_of_similar_length_and_hold_every_sequence_once_an_epoch() -> None:
    rng = random.Random(0)
    sequences = [{"input_ids": [number] * rng.randint(20, 120)} for number in range(500)]
    ordered = training_order(sequences, 2, 8, 0)
    assert ordered == training_order(sequences, 2, 8, 0) != training_order(sequences, 2, 8, 1)
    assert Counter(s["input_ids"][0] for s in ordered) == Counter(dict.fromkeys(range(500), 2))
    sizes = [[len(s["input_ids"]) for s in ordered[i : i + 8]] for i in range(0, 1000, 8)]
    assert sum(max(batch) * len(batch) for batch in sizes) < 1.06 * sum(map(sum, sizes))
    assert sizes != sorted(sizes), "long batches are not all at the end"


def test_consolidation_asks_known_facts_beside_passages_and_alone(finished_run: Path) -> None:
    folder = finished_run / "04-questions"
    *atomic, asked = (read_jsonl(folder / f"{skill}.train.jsonl", Question) for skill in Skill)
    mixture = Mixture(dict(zip(Skill, atomic, strict=False)), asked)
    (block,) = mixture.blocks(8, random.Random(0))
    assert len(block) == 8 and sum(row.reads for row in block) == 6
    reading = {row.prompt.split("\nQuestion:")[0] for row in block if row.reads}
    assert len(reading) == 1
    beside = [row.prompt.split("\n\n")[1] for row in block if row.reads]
    known = {row.prompt for pool in mixture.beside for row in group(pool)}
    assert len(known & set(beside)) == 2
    assert {row.prompt for row in block if not row.reads} <= {row.prompt for row in group(mixture.alone)}
    titles = [line.split("] ")[1].split(":")[0] for line in reading.pop().strip().splitlines()]
    assert set(titles) & {(*q.bridges, q.subject)[0] for pool in mixture.beside for q in pool}
    assert [len(found) for found in mixture.blocks(10, random.Random(0))] == [8, 2]


def test_a_mixture_of_one_skill_has_no_row_of_the_other(finished_run: Path) -> None:
    folder = finished_run / "04-questions"
    for skill, reads in ((Skill.PARAMETRIC, False), (Skill.CONTEXTUAL, True)):
        questions = read_jsonl(folder / f"{skill}.train.jsonl", Question)
        rows = [row for block in Mixture({skill: questions}, []).blocks(40, random.Random(0)) for row in block]
        assert rows and {row.reads for row in rows} == {reads}
        assert {row.prompt for row in rows} <= {row.prompt for row in group(questions)}


def test_general_rows_are_what_the_base_says_and_stand_among_the_others(
    finished_run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}Question: {{ m['content'] }}\nAnswer:\n{% endfor %}"
    file = tmp_path / "general.jsonl"
    write_general(str(tiny_model), tokenizer, 5, 0, file, Progress())
    rows = read_general(file)
    assert rows
    said = completions(load_base(str(tiny_model)), tokenizer, [row.prompt for row in rows], ANSWER_TOKENS)
    assert [row.completion.strip() for row in rows] == [one.text for one in said]
    folder = finished_run / "04-questions"
    *atomic, asked = (read_jsonl(folder / f"{skill}.train.jsonl", Question) for skill in Skill)
    mixture = Mixture(dict(zip(Skill, atomic, strict=False)), asked, rows)
    for block in mixture.blocks(12, random.Random(0)):
        assert len(set(block) & set(rows)) == min(2, len(rows))


def test_what_is_kept_costs_its_divergence_from_the_base(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    model = new_adapter(load_base(str(tiny_model), torch.float32), settings, 0)
    taught = [Row("[1] a: b\n\nWho?\n", "So: a", True), Row("[1] a: b\n\nWhich is it?\n", "So: b", True)]
    kept = [Row("Tell me!\n", "It is a long story", False, kept=True), Row("Who?\n", "I am", False, False, True)]
    batch = collate([packed(rows, tokenizer) for rows in ([*taught, *kept], [taught[0], kept[0]], taught[:1])])
    none = collate([packed(taught, tokenizer), packed(taught[:1], tokenizer), packed(taught[:1], tokenizer)])
    losses = label_losses(model, model, batch)
    torch.testing.assert_close(losses.sum(), label_losses(model, model, none).sum())
    # The base reads the row in another batch, so an AVX512 processor rounds one of the two differently.
    assert losses[-1].abs() < torch.finfo(torch.float32).eps, "a new adapter changes nothing"
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)

    def alone(row: Row) -> torch.Tensor:
        text = row.prompt + row.completion
        ids = torch.tensor([tokenizer(text).input_ids + [tokenizer.eos_token_id] * row.ends])
        with model.disable_adapter(), torch.no_grad():
            base = model(ids).logits[0, :-1].log_softmax(-1)
        return torch.nn.functional.kl_div(
            model(ids).logits[0, :-1].log_softmax(-1), base, reduction="sum", log_target=True
        )

    expected = label_losses(model, model, none).sum() + 2 * alone(kept[0]) + alone(kept[1])
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert trained and alone(kept[0]) > 0.1
    found = label_losses(model, model, batch)
    assert len(found) == int((batch["labels"] != IGNORED).sum())
    torch.testing.assert_close(found.sum(), expected, rtol=1e-4, atol=1e-4)
    both = (torch.autograd.grad(loss, trained) for loss in (found.sum(), expected))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_cut_answer_teaches_no_end(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    whole, cut = (packed([Row("Hi\n", "So: x", False, ends)], tokenizer)["labels"] for ends in (True, False))
    assert whole == [*cut, tokenizer.eos_token_id]
