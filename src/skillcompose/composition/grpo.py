"""GRPO on complementary questions, from the consolidated start, with replay of atomic rows.

Departures from the paper: one LoRA (the merged one) instead of all weights; real retrieved passages; atomic rows
replayed at every step (without them reading falls by 40 points); the policy is an average of the steps; no KL term
unless `beta` is set.
"""

import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig

from skillcompose.composition.mixture import Mixture
from skillcompose.composition.rewards import exact_match_reward
from skillcompose.composition.shared_prefix import SharedPrefixGRPOTrainer
from skillcompose.errors import TrainingError
from skillcompose.generation import answer_texts
from skillcompose.metrics import exact_match
from skillcompose.models import load_adapter, load_base, using
from skillcompose.packing import Group
from skillcompose.pipeline import Work
from skillcompose.prompts import prompt
from skillcompose.training import Watch, check_moved, check_trainable, last_checkpoint, machine_settings
from skillcompose.types import Question, read_jsonl, write_json

CONSTANT_STEPS = 5  # fewer steps of equal reward are no evidence


def train_grpo(work: Work, base: str, tokenizer: PreTrainedTokenizerBase, mixture: Mixture) -> None:
    """Train `start/` into `composed/`, resuming from `work/grpo`."""
    recipe, settings = work.recipe, work.recipe.composition
    scratch = work.folder / "work" / "grpo"
    questions = read_jsonl(work.read("questions") / "complementary.train.jsonl", Question)
    validation = read_jsonl(work.read("questions") / "complementary.validation.jsonl", Question)
    model = load_adapter(load_base(base), work.folder / "start", trainable=True)
    longest = {"max_completion_length": recipe.max_new_tokens}
    arguments = grpo_arguments(scratch, recipe.seed, longest | settings.grpo, len(questions))
    average = Average(settings.ema_decay)
    validate = Validate(work, tokenizer, validation, average)
    trainer = SharedPrefixGRPOTrainer(
        model,
        # TRL asks a reward for its name.
        update_wrapper(partial(exact_match_reward, max_answer_tokens=recipe.max_answer_tokens), exact_match_reward),
        arguments,
        train_dataset=Dataset.from_list(
            [{"prompt": prompt(q.text, q.passages), "answers": list(q.answers), "question": q.id} for q in questions]
        ),
        processing_class=tokenizer,
        callbacks=[average, Watch(work.progress, "GRPO"), validate],
        replay=Replay(mixture, settings.replay.rows, settings.replay.weight, recipe.seed),
        rollouts=work.folder / "rollouts.jsonl",
    )
    trainer.remove_callback(PrinterCallback)
    before = check_trainable(trainer.model, "composition")
    check_reference(trainer.model)
    checkpoint = last_checkpoint(scratch)
    validate.forget_after(int(checkpoint.rsplit("-", 1)[1]) if checkpoint else -1)
    trainer.forget_rollouts_after(int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0)
    begin = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    check_moved(trainer.model, before, "composition")
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    constant = len({entry["reward"] for entry in history}) == 1 and not any(entry["reward_std"] for entry in history)
    if constant and len(history) >= CONSTANT_STEPS:
        raise TrainingError(
            f"every rollout earned {history[0]['reward']:.2f}: GRPO had nothing to learn from; master the skills first"
        )
    chosen = validate.chosen()
    shutil.rmtree(work.folder / "composed", ignore_errors=True)
    shutil.copytree(validate.folder / f"step-{chosen}", work.folder / "composed")
    kept = (
        "step",
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "entropy",
        "rewards/most_frequent_answer",
        "most_frequent_answer",
        "unreadable",
        "completions/mean_length",
        "num_tokens",
        "kl",
    )
    write_json(
        work.folder / "training.json",
        {
            "chosen_step": chosen,
            "validation": validate.scores,
            "history": [{name: entry[name] for name in kept if name in entry} for entry in history],
        },
    )
    write_json(work.folder / "timing.json", {"grpo_seconds": round(time.monotonic() - begin, 1)})


def grpo_arguments(scratch: Path, seed: int, settings: dict[str, Any], questions: int) -> GRPOConfig:
    """TRL's configuration with defaults that fit a CPU; the recipe's `grpo:` comes on top."""
    defaults: dict[str, Any] = {
        "loss_type": "dr_grpo",
        "scale_rewards": "group",
        "beta": 0.0,
        "num_generations": 8,
        "temperature": 1.0,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 4,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 2,
        "save_steps": 10,
        "max_grad_norm": 1.0,
    }
    merged = defaults | settings
    group, rows = merged["num_generations"], merged["per_device_train_batch_size"]
    if rows % group:
        raise TrainingError(f"per_device_train_batch_size {rows} must hold whole groups of num_generations {group}")
    prompts = rows * merged.get("steps_per_generation", merged["gradient_accumulation_steps"]) // group
    if questions < prompts:
        raise TrainingError(
            f"{questions} training questions are fewer than the {prompts} prompts of one step; "
            "lower composition.grpo.gradient_accumulation_steps"
        )
    return GRPOConfig(**machine_settings(scratch, seed) | merged)


def check_reference(model: PeftModel) -> None:
    """With beta > 0 TRL clones `default` into `ref`; anything else there would be a wrong KL reference."""
    parameters = dict(model.named_parameters())
    for name, value in parameters.items():
        if ".ref." in name and not torch.equal(value, parameters[name.replace(".ref.", ".default.")]):
            raise TrainingError(f"the KL reference differs from the start in {name}")


class Replay:
    """Atomic rows for a step, drawn from the step's number alone."""

    def __init__(self, mixture: Mixture, rows: int, weight: float, seed: int) -> None:
        self.mixture, self.rows, self.weight, self.seed = mixture, rows, weight, seed

    def at(self, step: int) -> list[Group]:
        return self.mixture.blocks(self.rows, random.Random(f"replay {self.seed} {step}"))


class Average(TrainerCallback):
    """The adapters of the last steps in one, weighted exponentially: single steps of GRPO jump by tens of points.

    It is part of a checkpoint, so it must come before the callback that marks checkpoints as whole.
    """

    FILE = "average.safetensors"

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, torch.Tensor] = {}

    @staticmethod
    def _trained(model: PeftModel) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.values = {name: p.detach().clone() for name, p in self._trained(kwargs["model"]).items()}
        if state.global_step:
            saved = load_file(Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE)
            self.values = {name: saved[name].to(value.device) for name, value in self.values.items()}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for name, p in self._trained(kwargs["model"]).items():
            self.values[name].lerp_(p.detach(), 1 - self.decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        save_file(self.values, Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE)

    @contextmanager
    def inside(self, model: PeftModel) -> Iterator[None]:
        """The model with the average in the place of its last step."""
        trained = self._trained(model)
        last = {name: p.data for name, p in trained.items()}
        try:
            for name, p in trained.items():
                p.data = self.values[name]
            yield
        finally:
            for name, p in trained.items():
                p.data = last[name]


class Validate(TrainerCallback):
    """Greedy exact match on the validation questions every N steps.

    The policy is the last adapter that is not clearly worse than the best one: some dozens of questions find a
    collapse, but do not tell good checkpoints apart, and the average of more steps is the better one.
    """

    def __init__(
        self, work: Work, tokenizer: PreTrainedTokenizerBase, questions: list[Question], average: Average
    ) -> None:
        self.work, self.tokenizer, self.questions, self.average = work, tokenizer, questions, average
        self.folder = work.folder / "work" / "validated"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scores: dict[str, float] = {}

    def forget_after(self, step: int) -> None:
        """Drop what a killed process measured after its last checkpoint: it will be measured again."""
        path = self.folder / "scores.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
        self.scores = {name: score for name, score in found.items() if int(name) <= step}

    def chosen(self) -> int:
        """The last step within two standard errors of the highest score."""
        highest = max(self.scores.values())
        noise = 2 * (highest * (1 - highest) / len(self.questions)) ** 0.5
        return max(int(name) for name, score in self.scores.items() if score >= highest - noise)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._measure(kwargs["model"], 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.work.recipe.composition.validate_steps == 0 or state.global_step == state.max_steps:
            self._measure(kwargs["model"], state.global_step)

    def _measure(self, model: PeftModel, step: int) -> None:
        prompts = [prompt(q.text, q.passages) for q in self.questions]
        with self.average.inside(model):
            with using(model, "default"):
                texts = answer_texts(model, self.tokenizer, prompts, self.work.recipe.max_new_tokens)
            model.save_pretrained(self.folder / f"step-{step}", selected_adapters=["default"])
        right = sum(exact_match(text, q.answers) for text, q in zip(texts, self.questions, strict=True))
        self.scores[str(step)] = round(right / len(self.questions), 4)
        write_json(self.folder / "scores.json", self.scores)
        for folder in self.folder.glob("step-*"):
            if folder.name != f"step-{self.chosen()}":
                shutil.rmtree(folder)
