"""GRPO on complementary questions, from an adapter that has both skills, with replay of atomic rows.

Departures from the paper: one LoRA (the merged one) instead of all weights; real retrieved passages; atomic rows
replayed at every step (without them reading falls by 40 points); the policy is an average of the steps; no KL term
unless `beta` is set.
"""

import random
import shutil
import time
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import GRPOConfig

from skillcompose.composition.guards import Average, Collapse, Validate
from skillcompose.composition.mixture import Mixture
from skillcompose.composition.rewards import exact_match_reward, own_reward
from skillcompose.composition.shared_prefix import SharedPrefixGRPOTrainer
from skillcompose.errors import TrainingError
from skillcompose.libraries import GRPO
from skillcompose.models import load_adapter, load_base
from skillcompose.packing import Group
from skillcompose.prompts import prompt
from skillcompose.stages import Work
from skillcompose.training import Watch, check_moved, check_trainable, last_checkpoint, machine_settings
from skillcompose.types import Question, Skill, read_jsonl, write_json

CONSTANT_STEPS = 5  # fewer steps of equal reward are no evidence


def train_grpo(
    work: Work, base: str, tokenizer: PreTrainedTokenizerBase, mixture: Mixture, questions: list[Question], start: Path
) -> None:
    """Train the adapter in `start` into `composed/` on these questions, resuming from `work/grpo`."""
    recipe, settings = work.recipe, work.recipe.composition
    scratch = work.folder / "work" / "grpo"
    validation = read_jsonl(work.read("questions") / "complementary.validation.jsonl", Question)
    model = load_adapter(load_base(base), start, trainable=True)
    longest = {"max_completion_length": recipe.max_new_tokens}
    arguments = GRPOConfig(**machine_settings(scratch, recipe.seed) | GRPO | longest | settings.grpo)
    average = Average(settings.ema_decay)
    atomic = {
        skill: read_jsonl(work.read("questions") / f"{skill}.validation.jsonl", Question)
        for skill in (Skill.PARAMETRIC, Skill.CONTEXTUAL)
    }
    validate = Validate(work, tokenizer, validation, atomic, average)
    collapse = Collapse()
    # TRL asks a reward for its name.
    exact = update_wrapper(partial(exact_match_reward, max_answer_tokens=recipe.max_answer_tokens), exact_match_reward)
    rewards: list[Any] = [exact]
    if settings.reward != "exact_match":
        # Exact match is measured all the same: it watches for a collapse.
        rewards.append(own_reward(recipe))
        arguments.reward_weights = [0.0, 1.0]
    trainer = SharedPrefixGRPOTrainer(
        model,
        rewards,
        arguments,
        train_dataset=Dataset.from_list(
            [{"prompt": prompt(q.text, q.passages), "answers": list(q.answers), "question": q.id} for q in questions]
        ),
        processing_class=tokenizer,
        callbacks=[average, Watch(work.progress, "GRPO"), validate, collapse],
        replay=Replay(mixture, settings.replay.rows, settings.replay.weight, recipe.seed),
        rollouts=work.folder / "rollouts.jsonl",
    )
    trainer.remove_callback(PrinterCallback)
    before = check_trainable(trainer.model)
    check_reference(trainer.model)
    checkpoint = last_checkpoint(scratch)
    done = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    validate.forget_after(done if checkpoint else -1)
    trainer.forget_rollouts_after(done)
    trainer._step = done * arguments.gradient_accumulation_steps  # where it is in what was sampled for several steps
    begin = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    check_moved(trainer.model, before)
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    constant = len({entry["reward"] for entry in history}) == 1 and not any(entry["reward_std"] for entry in history)
    if constant and len(history) >= CONSTANT_STEPS:
        raise TrainingError(
            f"every rollout earned {history[0]['reward']}: GRPO had nothing to learn from; master the skills first"
        )
    chosen = validate.chosen()
    shutil.rmtree(work.folder / "composed", ignore_errors=True)
    shutil.copytree(validate.folder / f"step-{chosen}", work.folder / "composed")
    for path in (work.run.folder / "diagnosis").glob("*.json"):  # of the policy before
        path.unlink()
    kept = (
        "step",
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "entropy",
        "most_frequent_error",
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
            "probes": validate.probes,
            "collapsed": collapse.reason,
            "history": [{name: entry[name] for name in kept if name in entry} for entry in history],
        },
    )
    write_json(work.folder / "timing.json", {"grpo_seconds": round(time.monotonic() - begin, 1)})


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
