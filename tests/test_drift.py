"""What an adapter changes of the base's own conversations: the penalty is its gradient."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, TrainerControl, TrainerState

from skillcompose.adapters import drift
from skillcompose.adapters.drift import DriftPenalty, adapted
from skillcompose.models import load_base, new_adapter
from skillcompose.packing import Row


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)])
def test_the_penalty_is_the_gradient_of_what_is_added_over_the_conversations(
    tiny_model: Path, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "TOGETHER", 2)  # two in one sequence, and sums over two sequences
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = ["Question: tell me of the size of brol\nAnswer:\nIt is small", "Who is wim?", "Name the size of brol"]
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    model = new_adapter(load_base(str(tiny_model), dtype), settings, 0)
    penalty = DriftPenalty(model, tokenizer, [Row(text, "", False, False, True) for text in texts], 3000.0)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for weight in trained.values():
        torch.nn.init.normal_(weight, std=0.1)
        weight.grad = torch.ones_like(weight)

    given: dict[str, list[torch.Tensor]] = {name: [] for name in adapted(model)}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: given[name].append(inputs[0][0].float()))
        for name, layer in adapted(model).items()
    ]
    with model.disable_adapter(), torch.no_grad():
        for text in texts:
            model(tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids)
    for hook in hooks:
        hook.remove()
    expected = torch.zeros(())
    for name, layer in adapted(model).items():
        x = torch.cat(given[name])
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        added, base = 2 * x @ a.T @ b.T, x @ layer.get_base_layer().weight.float().T
        expected = expected + added.square().sum() / base.square().sum() / len(given)
    wanted = torch.autograd.grad(3000 * expected, list(trained.values()))
    penalty.on_pre_optimizer_step(SimpleNamespace(), TrainerState(), TrainerControl(), model=model)
    for weight, gradient in zip(trained.values(), wanted, strict=True):
        torch.testing.assert_close(weight.grad, 1 + gradient, rtol=tolerance, atol=tolerance)
