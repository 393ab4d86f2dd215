"""How much of the base does an adapter keep, and what does keeping it cost? A penalty on drift, at several weights.

    python benchmarks/drift.py RUN SKILL [WEIGHT...]        as runs/debian-0 contextual 0 1000 10000

An adapter adds s B A x to what a layer makes of its input, W x. Over the inputs of the base's own conversations the
mean square of what is added, beside that of W x, is the layer's drift. It depends on the inputs by their second moments
alone, which are summed up once before training; after that it costs two small products a layer and step, and no row of
the conversations is trained on. What recipes do instead is to hold rows of them to the base.

Trains the skill's adapter of a run anew with each weight (0: no penalty, and no rows held) and writes to `drift.json`
its loss over the last thirty steps, what it masters of 120 validation questions for each number of hops, its
divergence from the base in nats a token on a quarter of the run's conversations, which the penalty was not given, and
how many of the general questions of `general.py` it answers.
"""

import random
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import claims
import torch
from general import answered
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from skillcompose.adapters import GENERAL, measure, read_general, train_adapter
from skillcompose.allocator import start_again
from skillcompose.models import load_adapter, load_base, load_tokenizer
from skillcompose.packing import by_passages
from skillcompose.pipeline import load_recipe
from skillcompose.progress import Progress
from skillcompose.run import Run
from skillcompose.stages import Work
from skillcompose.types import Question, Skill, read_json, read_jsonl, write_json

FILE = Path(__file__).parent / "drift.json"
ASKED, LAST = 120, 30


class DriftPenalty(TrainerCallback):
    """Adds the gradient of a weight times the drift of `default`, mean over layers, to that of a trainer's loss."""

    def __init__(self, weight: float, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[str]) -> None:
        self.weight, self.tokenizer, self.conversations = weight, tokenizer, conversations
        self.moments: dict[str, torch.Tensor] = {}
        self.scale: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = kwargs["model"]
        self.moments = second_moments(model, self.tokenizer, self.conversations)
        for name, layer in adapted(model).items():
            base = layer.get_base_layer().weight.float()
            self.scale[name] = 1 / (base @ self.moments[name] * base).sum()

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
            factor = 2 * self.weight / len(layers) * layer.scaling["default"] ** 2 * float(self.scale[name])
            a.grad.addmm_(b.T @ b, seen, alpha=factor)
            b.grad.addmm_(b, seen @ a.T, alpha=factor)


@torch.no_grad()
def second_moments(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[str]
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
                model.get_base_model().base_model(input_ids=ids.to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: sums[leader] for name, leader in first.items()}


def adapted(model: PeftModel) -> dict[str, Any]:
    """Name -> layer with LoRA `default`."""
    modules = model.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, LoraLayer) and "default" in layer.lora_A}


def trained(run: Run, skill: Skill, weight: float) -> dict[str, Any]:
    recipe = load_recipe(run)
    folder = run.folder.with_name(f"{run.folder.name}-drift-{skill}-{weight:g}")
    work = Work(recipe, run.stage("adapters"), run, Progress(), allow_unmastered=True)
    base, settings = recipe.base(), getattr(recipe.adapters, skill)
    tokenizer = load_tokenizer(base)
    conversations = [row.prompt + row.completion for row in read_general(run.stage("adapters") / GENERAL)]
    held = conversations[: len(conversations) // 4 or 1]
    penalty = [DriftPenalty(weight, tokenizer, conversations[len(held) :])] if weight else []
    groups = by_passages(read_jsonl(run.stage("questions") / f"{skill}.train.jsonl", Question))
    random.Random(f"{skill} {recipe.seed}").shuffle(groups)
    train_adapter(
        base, tokenizer, groups, folder, folder / "work", settings.sft, recipe.seed, work.progress,
        f"weight {weight:g}", lora=settings.lora, callbacks=penalty,
    )  # fmt: skip
    model = load_adapter(load_base(base), folder)
    apart, tokens = 0.0, 0
    for text in held:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            adapted = model(ids).logits.float().log_softmax(-1)
            with model.disable_adapter():
                own = model(ids).logits.float().log_softmax(-1)
        apart += float(torch.nn.functional.kl_div(adapted, own, reduction="sum", log_target=True))
        tokens += ids.shape[1]
    questions = read_jsonl(run.stage("questions") / f"{skill}.validation.jsonl", Question)
    losses = [entry["loss"] for entry in read_json(folder / "training.json")["history"][-LAST:]]
    found = {
        "mastery": measure(model, tokenizer, questions, "default", ASKED, work),
        "loss": sum(losses) / len(losses),
        "nats_a_token": apart / tokens,
        "general": sum(answered(base, tokenizer, folder, work.progress)),
        "commit": claims.commit(),
        "machine": claims.machine(),
    }
    shutil.rmtree(folder)
    return found


def main() -> None:
    start_again()
    run, skill = Run.open(Path(sys.argv[1])), Skill(sys.argv[2])
    found: dict[str, Any] = read_json(FILE) if FILE.is_file() else {}
    own = found.setdefault(run.folder.name, {}).setdefault(str(skill), {})
    for weight in map(float, sys.argv[3:] or (0, 1000, 10_000)):
        own[f"{weight:g}"] = trained(run, skill, weight)
        write_json(FILE, found)
    print("| weight | loss | nats a token | general questions | mastered |\n|---|---|---|---|---|")
    for name, row in own.items():
        right = ", ".join(f"{part['correct']} of {part['asked']}" for part in row["mastery"])
        print(f"| {name} | {row['loss']:.3f} | {row['nats_a_token']:.4f} | {row['general']} | {right} |")


if __name__ == "__main__":
    main()
