"""Numerics as properties: the merge is the sum, shared prefixes change nothing, the reward cannot be gamed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    TrainerControl,
    TrainerState,
)

from skillcompose.composition.guards import Average, Collapse, Validate
from skillcompose.composition.merge import merge_adapters
from skillcompose.composition.rewards import exact_match_reward
from skillcompose.composition.scoring import agrees, score
from skillcompose.errors import AdapterError
from skillcompose.kernels import LAYOUTS, elementwise, head
from skillcompose.models import load_adapter, load_base, using

TARGETS = ["q_proj", "down_proj"]


def make_adapter(base: Path, folder: Path, seed: int, **settings) -> None:
    torch.manual_seed(seed)
    model = get_peft_model(load_base(str(base)), LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    model.save_pretrained(folder)


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def deltas(model: PeftModel) -> dict[str, torch.Tensor]:
    return {
        name.removesuffix(".lora_A.default.weight"): model.get_submodule(
            name.removesuffix(".lora_A.default.weight")
        ).get_delta_weight("default")
        for name, _ in model.named_parameters()
        if name.endswith(".lora_A.default.weight")
    }


@pytest.mark.parametrize("chosen", [{}, {"layers_to_transform": [1]}, {"exclude_modules": ["layers.0.mlp.down_proj"]}])
def test_the_merge_is_the_exact_weighted_sum_for_unequal_ranks_scales_and_targets(
    tiny_model: Path, tmp_path: Path, chosen: dict[str, list]
) -> None:
    make_adapter(tiny_model, tmp_path / "a", 1, r=4, lora_alpha=8, target_modules=TARGETS, **chosen)
    make_adapter(tiny_model, tmp_path / "b", 2, r=6, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "v_proj"])
    merge_adapters([tmp_path / "a", tmp_path / "b"], [1.0, -0.5], tmp_path / "sum")
    merged = deltas(load_adapter(load_base(str(tiny_model)), tmp_path / "sum"))
    one = deltas(load_adapter(load_base(str(tiny_model)), tmp_path / "a"))
    two = deltas(load_adapter(load_base(str(tiny_model)), tmp_path / "b"))
    assert set(merged) == set(one) | set(two)
    for name, value in merged.items():
        expected = one.get(name, torch.zeros_like(value)) - 0.5 * two.get(name, torch.zeros_like(value))
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_patterns_of_scales_are_read_as_peft_reads_them(tiny_model: Path, tmp_path: Path) -> None:
    patterns = {r".*layers\.1\..*q_proj": 32, "layers.0.mlp.down_proj": 2}
    make_adapter(tiny_model, tmp_path / "a", 1, r=4, lora_alpha=8, target_modules=TARGETS, alpha_pattern=patterns)
    merge_adapters([tmp_path / "a"], [1.0], tmp_path / "same")
    before, after = (deltas(load_adapter(load_base(str(tiny_model)), tmp_path / name)) for name in ("a", "same"))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=1e-5)


def test_an_adapter_merged_alone_is_itself(tiny_model: Path, tmp_path: Path) -> None:
    make_adapter(tiny_model, tmp_path / "a", 1, r=4, lora_alpha=8, target_modules=TARGETS)
    merge_adapters([tmp_path / "a"], [1.0], tmp_path / "same")
    ids = torch.randint(1, 200, (2, 9))
    before = logits(load_adapter(load_base(str(tiny_model)), tmp_path / "a"), ids)
    torch.testing.assert_close(logits(load_adapter(load_base(str(tiny_model)), tmp_path / "same"), ids), before)


def test_adapters_that_no_sum_is_exact_for_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    make_adapter(tiny_model, tmp_path / "dora", 1, r=4, use_dora=True, target_modules=TARGETS)
    with pytest.raises(AdapterError, match="use_dora"):
        merge_adapters([tmp_path / "dora"], [1.0], tmp_path / "sum")
    with pytest.raises(AdapterError, match="not a LoRA adapter"):
        merge_adapters([tmp_path / "nothing"], [1.0], tmp_path / "sum")


def test_using_an_adapter_merges_it_and_puts_the_old_weights_back(tiny_model: Path, tmp_path: Path) -> None:
    make_adapter(tiny_model, tmp_path / "a", 1, r=4, lora_alpha=8, target_modules=TARGETS)
    model = load_adapter(load_base(str(tiny_model)), tmp_path / "a", "skill")
    before = {name: p.clone() for name, p in model.named_parameters()}
    ids = torch.randint(1, 200, (2, 9))
    plain = logits(model, ids)
    with using(model, "skill"):
        torch.testing.assert_close(logits(model, ids), plain, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    with using(model, None):
        torch.testing.assert_close(logits(model, ids), logits(load_base(str(tiny_model)), ids))


def test_in_bf16_lora_keeps_its_fp32_weights_and_answers_nearly_alike(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skillcompose import models

    make_adapter(tiny_model, tmp_path / "a", 1, r=4, lora_alpha=8, target_modules=TARGETS)
    ids = torch.randint(1, 200, (2, 9))
    exact = logits(load_adapter(load_base(str(tiny_model)), tmp_path / "a"), ids)
    monkeypatch.setattr(models, "fast_dtype", lambda: torch.bfloat16)
    model = load_adapter(load_base(str(tiny_model)), tmp_path / "a", trainable=True)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    found = model(ids).logits
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).norm() < 0.02 * exact.norm()
    found.float().logsumexp(-1).sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_shared_prefix_scoring_equals_a_plain_forward_with_its_gradient(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.manual_seed(0)
    prompts = torch.randint(1, 200, (2, 7)).repeat_interleave(3, 0)
    completions = torch.randint(1, 200, (6, 5))
    completions[2] = completions[0]
    ids, mask = torch.cat([prompts, completions], 1), torch.ones(6, 12, dtype=torch.long)
    mask[:3, :2] = 0  # the first prompt is left-padded
    mask[1, 10:] = 0  # a completion ended early
    positions = (mask.cumsum(-1) - 1).clamp(min=0)

    def gradient(logps: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        (logps * mask[:, 7:]).sum().backward()
        return model.model.layers[0].mlp.down_proj.weight.grad.clone()

    logs = torch.log_softmax(model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.float() / 0.7, -1)
    plain = logs[:, 6:-1].gather(-1, completions[..., None])[..., 0]
    shared, entropies = score(model, model, 0.7, ids, mask.bool(), 5)
    kept = mask[:, 7:].bool()
    torch.testing.assert_close(shared[kept], plain[kept], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies[kept], -(logs.exp() * logs).sum(-1)[:, 6:-1][kept], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient(shared), gradient(plain), atol=1e-5, rtol=1e-4)
    single, _ = score(model, model, 0.7, ids[:, :8], mask[:, :8].bool(), 1)
    torch.testing.assert_close(single[:, 0], plain[:, 0], atol=1e-5, rtol=1e-5)
    mask[:, 7:] = 0  # all were cut, and are masked
    none, _ = score(model, model, 0.7, ids, mask.bool(), 5)
    assert not none.any() and not gradient(none).any()


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_the_self_test_passes_for_every_layout_and_finds_what_differs(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
    words = {"vocab_size": 90, "intermediate_size": 48, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": [0, 1, 2]}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **words))
    before = torch.random.get_rng_state()
    assert agrees(base)
    assert torch.equal(before, torch.random.get_rng_state()), "what is sampled later must not depend on it"
    for kernel in (elementwise._Norm, elementwise._Gated, head._LogProbs):
        with monkeypatch.context() as patch:
            right = kernel.backward
            patch.setattr(kernel, "backward", staticmethod(partial(wrongly, right)))
            assert not agrees(base), kernel


def wrongly(right: Callable[..., tuple[Any, ...]], ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
    return tuple(grad if grad is None else 1.1 * grad for grad in right(ctx, *grads))


def test_the_average_follows_the_steps_and_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    arguments, state = SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=0)

    def told(average: Average, event: str) -> None:
        getattr(average, event)(arguments, state, None, model=model)

    model.weight.data.fill_(1.0)
    average = Average(0.75)
    told(average, "on_train_begin")
    model.weight.data.fill_(5.0)
    told(average, "on_step_end")
    state.global_step = 1
    (tmp_path / "checkpoint-1").mkdir()
    told(average, "on_save")
    resumed = Average(0.75)
    told(resumed, "on_train_begin")
    for found in (average, resumed):
        with found.inside(model):
            assert model.weight.item() == 2.0
        assert model.weight.item() == 5.0


@pytest.mark.parametrize("name", ["unreadable", "most_frequent_error"])
def test_a_collapse_stops_training_but_a_bad_step_does_not(name: str) -> None:
    state, control, guard = TrainerState(), TrainerControl(), Collapse()
    for share in [0.9, 0.9, 0.1, *[0.9] * 4]:
        assert not control.should_training_stop and guard.reason is None
        state.log_history.append({"reward": 0.0, name: share})
        guard.on_step_end(None, state, control)
    assert control.should_training_stop
    assert guard.reason == f"{name.replace('_', ' ')}: above 60% of completions for 4 steps"


@pytest.mark.parametrize(("last", "chosen"), [(0.975, 30), (0.5, 20)])
def test_one_miss_after_all_were_right_is_not_clearly_worse(last: float, chosen: int, tmp_path: Path) -> None:
    validate = object.__new__(Validate)
    validate.folder, validate.questions = tmp_path, [None] * 40
    validate.scores = {"10": 1.0, "20": 1.0, "30": last}
    for step in validate.scores:
        (tmp_path / f"step-{step}").mkdir()
    assert validate.chosen() == chosen


def test_the_reward_is_the_metric_and_pays_nothing_for_tricks() -> None:
    logged: dict[str, float] = {}
    texts = ["It is x.\nSo: Ann Lee", "So: a\nSo: Ann Lee", "Ann Lee", "So: ann lee.", "So: Bo"]
    answers = [["Ann Lee"]] * 5
    rewards = exact_match_reward(texts, answers=answers, log_metric=logged.__setitem__)
    assert rewards == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert logged["unreadable"] == pytest.approx(0.4) and logged["most_frequent_error"] == pytest.approx(0.2)
    exact_match_reward(["So: Ann Lee"] * 5, answers=answers, log_metric=logged.__setitem__)
    assert logged["unreadable"] == logged["most_frequent_error"] == 0  # they are all right
    long = [[1] * 42, [1] * 41]
    assert exact_match_reward(["So: Ann Lee"] * 2, answers=answers[:2], completion_ids=long) == [0.0, 1.0]
