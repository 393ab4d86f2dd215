"""TRL's GRPOTrainer with each prompt computed once per group, in sampling and in scoring, gradients included.

With passages in the prompt, stock GRPO spends most of a step on G copies of the same prompt. Here the prompt's
key-value cache is expanded to its group instead, which is exact. The LM head runs on completion positions only, and
groups whose rewards are all equal (advantage zero) are not scored at all; the normaliser stays what TRL computed.
A self-test at the start compares this with plain forwards. Other architectures than Llama's layout keep TRL's own
scoring.
"""

import json
import logging
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler, split_tensor_dict

from skillcompose.composition.scoring import agrees, score
from skillcompose.errors import TrainingError
from skillcompose.generation import Sampling, generate
from skillcompose.kernels import LAYOUTS
from skillcompose.metrics import exact_match
from skillcompose.models import using
from skillcompose.packing import IGNORED, collate, packed
from skillcompose.training import label_losses
from skillcompose.types import write_text

logger = logging.getLogger(__name__)


class EpochSampler(RepeatSampler):
    """An order of its own for every pass, so that a resumed run goes on in the pass that was interrupted: TRL's draws
    the first pass's order again."""

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class SharedPrefixGRPOTrainer(GRPOTrainer):
    """`replay` gives atomic rows for a step; `rollouts` is the JSONL file that keeps one completion a prompt."""

    def __init__(self, *args: Any, replay: Any = None, rollouts: Path | None = None, **kwargs: Any) -> None:
        super().__init__(*args, rollout_func=self._rollout, **kwargs)
        self.replay = replay
        self._buffered_inputs: Any = None
        self.rollouts = rollouts
        base = self.model.get_base_model()
        self.shared = base.config.model_type in LAYOUTS
        if not self.shared:
            logger.warning("no shared-prefix scoring for architecture %r: TRL's own is used", base.config.model_type)
        elif not agrees(base):
            raise TrainingError(
                "scoring with shared prefixes gives another result here than plain forwards: this version of "
                "transformers or torch, or this processor, is not one it was written for; install with constraints.txt"
            )

    def _get_train_sampler(self, dataset: Any = None) -> RepeatSampler:
        sampler: RepeatSampler = super()._get_train_sampler(dataset)
        sampler.__class__ = EpochSampler
        return sampler

    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        """The last function is the one that pays. Where it has no opinion there is none: TRL would take exact match,
        which is watched at weight 0, for one."""
        found: torch.Tensor = super()._calculate_rewards(*args)
        found[found[:, -1].isnan()] = torch.nan
        return found

    def _rollout(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Prompts arrive repeated; a group may be cut at a process boundary, so equal neighbours are grouped."""
        model: PeftModel = self.accelerator.unwrap_model(self.model)
        sampling = Sampling(self.max_completion_length, self.temperature)
        encoded = [self.processing_class(text, add_special_tokens=False).input_ids for text in prompts]
        groups = [(ids, len(list(rows))) for ids, rows in groupby(encoded)]
        whole = len({size for _, size in groups}) == 1
        chosen, size = ([ids for ids, _ in groups], groups[0][1]) if whole else (encoded, 1)
        with using(model, "default"):
            completions = generate(model, self.processing_class, chosen, size, sampling)
        return {"prompt_ids": encoded, "completion_ids": completions, "logprobs": None}

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL, but groups stay whole instead of being shuffled over micro-batches: those with a gradient first, and
        beside each other those of similar length."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._keep_rollouts(generation_batch, batch)
            equal = (batch["advantages"] == 0).view(-1, self.num_generations).all(1)
            prompts = batch["prompt_mask"][:: self.num_generations].sum(1)
            sizes = prompts + batch["completion_mask"].sum(1).view(-1, self.num_generations).sum(1)
            order = torch.argsort(sizes + equal * sizes.sum())
            # Dealt out, where a batch is for several steps: none is left with the groups that have no gradient.
            updates = max(1, steps // self.args.gradient_accumulation_steps)
            if len(order) % updates == 0:
                order = order.view(-1, updates).T.flatten()
            rows = (
                order[:, None] * self.num_generations + torch.arange(self.num_generations, device=order.device)
            ).flatten()
            batch = {
                name: value[rows] if isinstance(value, torch.Tensor) and value.dim() > 0 else value
                for name, value in batch.items()
            }
            self._buffered_inputs = split_tensor_dict(batch, steps)
        return self._buffered_inputs[self._step % steps]

    def _keep_rollouts(self, rows: list[dict[str, Any]], batch: dict[str, Any]) -> None:
        if self.rollouts is None or not self.accelerator.is_main_process:
            return
        with self.rollouts.open("a", encoding="utf-8") as file:
            for i in range(0, len(rows), self.num_generations):
                ids = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
                text = self.processing_class.decode(ids, skip_special_tokens=True)
                record = {
                    "step": self.state.global_step,
                    "question": rows[i].get("question"),
                    "completion": text,
                    "right": exact_match(text, rows[i]["answers"]),
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def forget_rollouts_after(self, step: int) -> None:
        """Drop what a killed process sampled after its last checkpoint: it will be sampled again."""
        if self.rollouts is not None and self.rollouts.is_file():
            # What stands behind the last line break is half a line, or nothing.
            *lines, _ = self.rollouts.read_text(encoding="utf-8").split("\n")
            write_text(self.rollouts, "".join(line + "\n" for line in lines if json.loads(line)["step"] < step))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        first = self._step % self.current_gradient_accumulation_steps == 0
        loss = super().training_step(model, inputs, num_items_in_batch)
        if first and self.replay is not None and self.replay.rows:
            for part in self._replay_losses(model):
                self.accelerator.backward(part)
        return loss

    def _replay_losses(self, model: Any) -> Iterator[torch.Tensor]:
        """Weighted mean loss over this step's replayed tokens, a sequence at a time: none is padded.

        At the sampling temperature, so replay teaches the policy as it is sampled.
        """
        sequences = [packed(block, self.processing_class) for block in self.replay.at(self.state.global_step)]
        total = sum(label != IGNORED for found in sequences for label in found["labels"])
        for sequence in sequences:
            batch = {n: t.to(self.accelerator.device) for n, t in collate([sequence]).items()}
            losses = label_losses(model, self.accelerator.unwrap_model(model), batch, self.temperature)
            yield self.replay.weight * losses.sum() / total

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        # Several processes must run the same forwards, so only a lone one may leave any out.
        if self.shared and self.accelerator.num_processes == 1 and self.beta == 0.0 and not inputs["advantages"].any():
            return torch.zeros((), device=self.accelerator.device, requires_grad=True)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> Any:
        if not self.shared:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        rows = batch_size or len(input_ids)
        plain = self.accelerator.unwrap_model(model)
        parts = [
            score(model, plain, self.temperature, ids, mask.bool(), logits_to_keep)
            for ids, mask in zip(input_ids.split(rows), attention_mask.split(rows), strict=True)
        ]
        logps, entropies = (torch.cat(found) for found in zip(*parts, strict=True))
        return logps, entropies if compute_entropy else None, None
