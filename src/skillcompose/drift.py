"""What an adapter changes of what the base is used for, and a penalty on it: new skills should not cost the old ones.

An adapter adds s B A x to what a layer makes of its input, W x. Over the inputs of the base's own conversations the
mean square of what is added, beside that of W x, is the layer's drift. It depends on the inputs by their second moments
alone, which are summed up once before training; after that it costs two small products a layer and step, and no row of
the conversations is trained on. Keeping A out of the conversations' directions altogether (GPM, arXiv 2103.09762;
AlphaEdit, arXiv 2410.02355) was slower to learn: `benchmarks/RESULTS.md`.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

WEIGHT = 5000.0  # of the mean drift of all layers, beside the loss in nats a token


class DriftPenalty(TrainerCallback):
    """Adds the gradient of the drift of the adapter `default` to that of a trainer's loss."""

    def __init__(self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, conversations: Iterable[str]) -> None:
        self.moments = second_moments(model, tokenizer, conversations)
        with torch.no_grad():
            self.scale = {
                name: 1 / ((weight := layer.get_base_layer().weight.float()) @ self.moments[name] * weight).sum()
                for name, layer in adapted(model).items()
            }

    @torch.no_grad()
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        layers = adapted(kwargs["model"])
        for name, layer in layers.items():
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            if a.grad is None or b.grad is None:  # nothing was learnt in this step
                continue
            seen = a @ self.moments[name]
            factor = 2 * WEIGHT / len(layers) * layer.scaling["default"] ** 2 * float(self.scale[name])
            a.grad.addmm_(b.T @ b, seen, alpha=factor)
            b.grad.addmm_(b, seen @ a.T, alpha=factor)

    @torch.no_grad()
    def drift(self, model: PeftModel) -> float:
        """The mean over the layers."""
        found = []
        for name, layer in adapted(model).items():
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            added = (b.T @ b) * (a @ self.moments[name] @ a.T)
            found.append(layer.scaling["default"] ** 2 * float(added.sum() * self.scale[name]))
        return sum(found) / len(found)


@torch.no_grad()
def second_moments(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, conversations: Iterable[str]
) -> dict[str, torch.Tensor]:
    """Layer with LoRA -> X'X (d, d) of the inputs X that it is given while the base talks."""
    sums: dict[str, torch.Tensor] = {}
    first: dict[str, str] = {}  # of the layers that are given the same tensor, as query, key and value are
    last: tuple[Any, str] = (None, "")

    def see(name: str, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal last
        if inputs[0] is not last[0]:
            last = inputs[0], name
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows
        first[name] = last[1]

    hooks = [layer.register_forward_pre_hook(partial(see, name)) for name, layer in adapted(model).items()]
    try:
        with model.disable_adapter():
            for text in conversations:
                ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
                model.get_base_model().base_model(input_ids=ids.to(model.device), use_cache=False)  # without the head
    finally:
        for hook in hooks:
            hook.remove()
    return {name: sums[leader] for name, leader in first.items()}


def adapted(model: PeftModel) -> dict[str, Any]:
    """Name -> layer with LoRA `default`."""
    modules = model.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, LoraLayer) and "default" in layer.lora_A}
