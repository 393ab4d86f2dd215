"""A penalty on what an adapter changes of the base's own conversations: new skills should not cost the old ones.

An adapter adds s B A x to what a layer makes of its input, W x. Over the inputs of the base's conversations the mean
square of what is added, beside that of W x, is the layer's drift. It depends on the inputs by their second moments
alone, which are summed up once before training; after that it costs two small products a layer and step, and no row of
the conversations is trained on. Keeping A out of the conversations' directions altogether (GPM, arXiv 2103.09762;
AlphaEdit, arXiv 2410.02355) was slower to learn: `benchmarks/RESULTS.md`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from skillcompose.packing import Row, collate, packed
from skillcompose.training import masks

TOGETHER = 16  # conversations in one sequence: each product with (d, d) numbers is for all of them


class DriftPenalty(TrainerCallback):
    """Adds to a trainer's gradient that of a weight times the drift of the adapter `default`, mean over its layers."""

    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Row], weight: float
    ) -> None:
        self.weight = weight
        self.moments, self.energy = moments(model, tokenizer, conversations)

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
            factor = 2 * self.weight / len(layers) * layer.scaling["default"] ** 2 / self.energy[name]
            a.grad.addmm_(b.T @ b, seen, alpha=factor)
            b.grad.addmm_(b, seen @ a.T, alpha=factor)


@torch.no_grad()
def moments(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Row]
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Of the layers with LoRA, while the base reads: X'X (d, d) of the inputs X, and the sum of the squared outputs."""
    sums: dict[str, torch.Tensor] = {}
    energy: dict[str, float] = {}
    first: dict[str, str] = {}  # of the layers that are given the same tensor, as query, key and value are
    last: tuple[Any, str] = (None, "")

    def see(name: str, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal last
        if inputs[0] is not last[0]:
            last = inputs[0], name
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            # A base in bf16 runs under autocast, which would multiply these in bf16 too.
            with torch.autocast(rows.device.type, enabled=False):
                sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows
        first[name] = last[1]
        energy[name] = energy.get(name, 0.0) + float(output.float().square().sum())

    hooks = [layer.register_forward_hook(partial(see, name)) for name, layer in adapted(model).items()]
    try:
        with model.disable_adapter():
            for i in range(0, len(conversations), TOGETHER):
                sequence = collate([packed(list(conversations[i : i + TOGETHER]), tokenizer)])
                batch = {name: values.to(model.device) for name, values in sequence.items() if name != "labels"}
                # Without the head.
                model.get_base_model().base_model(**batch | {"attention_mask": masks(model, batch)}, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: sums[leader] for name, leader in first.items()}, energy


def adapted(model: PeftModel) -> dict[str, Any]:
    """Name -> layer with LoRA `default`."""
    modules = model.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, LoraLayer) and "default" in layer.lora_A}
