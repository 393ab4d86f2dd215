"""Supervised training of one adapter with TRL's SFTTrainer on plain prompt-completion rows."""

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from skillcompose.adapters.drift import DriftPenalty
from skillcompose.builtin import fingerprint
from skillcompose.errors import TrainingError
from skillcompose.kernels import LAYOUTS
from skillcompose.memory import release_memory
from skillcompose.models import load_adapter, load_base, load_tokenizer, new_adapter
from skillcompose.packing import Group, Packed, Row, collate, packed
from skillcompose.run import digest, file_digest
from skillcompose.stages import Work
from skillcompose.training import (
    Watch,
    check_moved,
    check_trainable,
    label_losses,
    last_checkpoint,
    machine_settings,
)
from skillcompose.types import read_json, write_json

BUCKET_BATCHES = 16  # with them the demo's batches hold 2 to 5 % padding
VERSION = 4  # raise it when the same rows and settings would train another adapter
logger = logging.getLogger(__name__)


class AdapterTrainer(SFTTrainer):
    """The same loss as TRL's, mean over a step's labelled tokens, without its metrics over the vocabulary.

    What the base says by itself costs what the adapter changes of it.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        losses = label_losses(model, self.accelerator.unwrap_model(model), inputs)
        if num_items_in_batch is None:
            return losses.mean()
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return losses.sum() * processes / num_items_in_batch


def train_adapter(
    work: Work,
    name: str,
    groups: list[Group],
    settings: dict[str, Any],
    what: str,
    *,
    lora: dict[str, Any] | None = None,
    start: Path | None = None,
    conversations: Sequence[Row] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train a fresh LoRA (`lora`), or go on with the one in `start`, and save it to the folder `name` of `work`.

    Checkpoints go to `work/NAME` there and are resumed from; `training.json` is written last. An adapter that was
    trained from the same rows, settings and model is kept. What it changes of `conversations` is penalised.

    Raises:
        TrainingError: Rows got lost, nothing is trainable, or the adapter did not move.
    """
    base, seed = work.recipe.base(), work.recipe.seed
    folder, scratch = work.folder / name, work.folder / "work" / name
    origin = file_digest(start / "adapter_model.safetensors") if start else None
    rows = [[asdict(row) for row in group] for group in groups]
    weight = work.recipe.adapters.drift
    kept = [asdict(row) for row in conversations] if weight else []
    key = digest([VERSION, rows, settings, lora, seed, fingerprint(base), origin, weight if kept else 0, kept])
    record = folder / "training.json"
    if record.is_file() and read_json(record).get("key") == key:
        logger.info("%s: kept, its rows and settings are unchanged", what)
        return
    settings = dict(settings)
    settings.setdefault("save_steps", 50)
    batch = settings.get("per_device_train_batch_size", 8)
    tokenizer = load_tokenizer(base)
    sequences = [packed(group, tokenizer) for group in groups]
    ordered = training_order(sequences, int(settings.pop("num_train_epochs", 1)), batch, seed)
    model = load_base(base)
    model = load_adapter(model, start, trainable=True) if start else new_adapter(model, lora or {}, seed)
    longest, window = len(max((found["input_ids"] for found in sequences), key=len)), sliding_window(model)
    if window and longest > window and model.config.model_type in LAYOUTS:
        logger.warning("%s: sequences of %d tokens are trained without the model's window of %d", what, longest, window)
    # The order of rows, epochs included, is fixed before; the collator needs every column.
    fixed = {
        "num_train_epochs": 1,
        "max_length": None,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
    }
    arguments = SFTConfig(**machine_settings(scratch, seed) | settings | fixed)
    begin = time.monotonic()
    penalty = [DriftPenalty(model, tokenizer, conversations, weight)] if kept else []
    trainer = AdapterTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_list(ordered),
        processing_class=tokenizer,
        data_collator=collate,
        callbacks=[Watch(work.progress, what), *penalty, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    if len(trainer.train_dataset) != len(ordered):
        raise TrainingError(f"TRL dropped {len(ordered) - len(trainer.train_dataset)} of {len(ordered)} sequences")
    before = check_trainable(trainer.model)
    trainer.train(resume_from_checkpoint=last_checkpoint(scratch))
    check_moved(trainer.model, before)
    record.unlink(missing_ok=True)  # of what was here before
    trainer.model.save_pretrained(folder, selected_adapters=["default"])
    history = [{"step": e["step"], "loss": e["loss"]} for e in trainer.state.log_history if "loss" in e]
    tokens = sum(len(row) for row in trainer.train_dataset["input_ids"])
    write_json(folder / "timing.json", {"seconds": round(time.monotonic() - begin, 1), "tokens": tokens})
    # Before the next base model is loaded.
    del trainer, model
    release_memory()
    write_json(record, {"key": key, "rows": sum(map(len, groups)), "tokens": tokens, "history": history})


def sliding_window(model: Any) -> int | None:
    """Tokens that a layer looks back, None when all layers see everything."""
    window: int | None = getattr(model.config.get_text_config(), "sliding_window", None)
    return window


def training_order(sequences: list[Packed], epochs: int, batch: int, seed: int) -> list[Packed]:
    """All epochs' sequences in the order of training: shuffled, then batches of similar length, then shuffled batches.

    The order is fixed here, not by a sampler, so that a resumed run sees the same batches as an unbroken one.
    """
    rng = random.Random(f"order {seed}")
    shuffled = [sequence for _ in range(epochs) for sequence in rng.sample(sequences, len(sequences))]
    size = batch * BUCKET_BATCHES
    ordered: list[Packed] = []
    for i in range(0, len(shuffled), size):
        bucket = sorted(shuffled[i : i + size], key=lambda sequence: len(sequence["input_ids"]))
        # Only whole batches change places: a short one in the middle would shift every batch after it.
        whole = len(bucket) // batch * batch
        batches = [bucket[j : j + batch] for j in range(0, whole, batch)]
        rng.shuffle(batches)
        ordered += [sequence for some in batches for sequence in some] + bucket[whole:]
    return ordered
