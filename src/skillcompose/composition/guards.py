"""What watches over GRPO: the average of its steps, validation with probes, and the stop at a collapse."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from skillcompose.adapters.mastery import sample
from skillcompose.generation import completions
from skillcompose.metrics import exact_match
from skillcompose.models import using
from skillcompose.prompts import prompt
from skillcompose.stages import Work
from skillcompose.types import Question, Skill, write_json

logger = logging.getLogger(__name__)


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
    """Greedy exact match on the validation questions every N steps, and what else must not be lost on the way.

    Probes: some questions of each atomic skill (is it retained?) and some validation questions without their passages
    (`closed_book`: is the policy remembering what it should read?).

    The policy is the last adapter that is not clearly worse than the best one: some dozens of questions find a
    collapse, but do not tell good checkpoints apart, and the average of more steps is the better one.
    """

    def __init__(
        self,
        work: Work,
        tokenizer: PreTrainedTokenizerBase,
        questions: list[Question],
        atomic: dict[Skill, list[Question]],
        average: Average,
    ) -> None:
        self.work, self.tokenizer, self.average = work, tokenizer, average
        settings, seed = work.recipe.composition, work.recipe.seed
        self.questions, count = sample(questions, settings.validation, seed), settings.probes
        self.probing = {str(skill): sample(asked, count, seed) for skill, asked in atomic.items()}
        self.probing["closed_book"] = [replace(q, passages=()) for q in sample(questions, count, seed)]
        self.folder = work.folder / "work" / "validated"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scores: dict[str, float] = {}
        self.probes: dict[str, dict[str, float]] = {}

    def forget_after(self, step: int) -> None:
        """Drop what a killed process measured after its last checkpoint: it will be measured again."""
        path = self.folder / "scores.json"
        found = json.loads(path.read_text()) if path.is_file() else {"scores": {}, "probes": {}}
        self.scores = {name: score for name, score in found["scores"].items() if int(name) <= step}
        self.probes = {name: probes for name, probes in found["probes"].items() if int(name) <= step}

    def chosen(self) -> int:
        """The last step within two standard errors of the highest score, of those whose adapter is still here."""
        highest, count = max(self.scores.values()), len(self.questions)
        likely = (highest * count + 1) / (count + 2)  # with all right, one that is wrong later is no proof yet
        noise = 2 * (likely * (1 - likely) / count) ** 0.5
        here = {int(name): score for name, score in self.scores.items() if (self.folder / f"step-{name}").is_dir()}
        return max((step for step, score in here.items() if score >= highest - noise), default=max(here))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._measure(kwargs["model"], 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.work.recipe.composition.validate_steps == 0 or state.global_step == state.max_steps:
            self._measure(kwargs["model"], state.global_step)

    def _measure(self, model: PeftModel, step: int) -> None:
        asked = {"validation": self.questions, **self.probing}
        prompts = [prompt(q.text, q.passages) for questions in asked.values() for q in questions]
        with self.average.inside(model):
            with using(model, "default"):
                said = iter(completions(model, self.tokenizer, prompts, self.work.recipe.max_new_tokens))
            model.save_pretrained(self.folder / f"step-{step}", selected_adapters=["default"])
        shares = {
            name: round(sum(exact_match(next(said).text, q.answers) for q in questions) / len(questions), 4)
            for name, questions in asked.items()
            if questions
        }
        self.scores[str(step)] = shares.pop("validation")
        self.probes[str(step)] = shares
        write_json(self.folder / "scores.json", {"scores": self.scores, "probes": self.probes})
        for folder in self.folder.glob("step-*"):
            if folder.name != f"step-{self.chosen()}":
                shutil.rmtree(folder)


class Collapse(TrainerCallback):
    """Stops when most completions of several steps in a row are unreadable, or say the same that is wrong: what is left
    to learn from is noise. The policy is then the last that validation did not find clearly worse, as always."""

    STEPS = 4
    SHARE = 0.6

    def __init__(self) -> None:
        self.reason: str | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = [entry for entry in state.log_history if "reward" in entry][-self.STEPS :]
        for name in ("unreadable", "most_frequent_error"):
            if len(last) == self.STEPS and all(entry.get(name, 0.0) > self.SHARE for entry in last):
                self.reason = f"{name.replace('_', ' ')}: above {self.SHARE:.0%} of completions for {self.STEPS} steps"
                logger.warning("GRPO collapsed at step %d and stops (%s)", state.global_step, self.reason)
                control.should_training_stop = True
