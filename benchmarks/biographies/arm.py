"""What every arm of the biographies' benchmark is made with: a run, its questions, the model, ways to train and ask."""

import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import general

import skillcompose
from skillcompose.adapters import ATOMIC, GENERAL, read_general, train_adapter
from skillcompose.composition import compose, trace_groups
from skillcompose.composition.grpo import Replay
from skillcompose.composition.mixture import Mixture
from skillcompose.evaluation.ladder import TestSet, judged
from skillcompose.metrics import exact_match, macro_mean
from skillcompose.models import load_adapter, load_base, load_tokenizer, using
from skillcompose.packing import Group, Row, by_passages
from skillcompose.progress import Progress
from skillcompose.prompts import prompt
from skillcompose.recall import Recall, answers
from skillcompose.run import Run
from skillcompose.stages import Work
from skillcompose.types import Question, Skill, read_json, read_jsonl, write_json

PATIENT = "_patient"
PART, PATIENCE, MOST = 200_000, 2, 2_000_000  # tokens; parts without a better validation; tokens
KEPT = ("rung", "question", "skill", "path", "level", "hops", "bridge", "seen", "retrieved", "correct")


class Arm:
    """What the arms of one seed have in common: the run that they start from, its questions, the model."""

    def __init__(self, name: str, recipe: skillcompose.Recipe, run: Run) -> None:
        self.run, self.recipe, self.seed = run, recipe, recipe.seed
        self.patient = name.endswith(PATIENT)
        folder = run.folder.with_name(f"{run.folder.name}-{name}")
        self.work = Work(recipe, folder, run, Progress(), allow_unmastered=True)
        self.work.folder.mkdir(parents=True, exist_ok=True)
        self.base = recipe.base()
        self.tokenizer = load_tokenizer(self.base)

    def questions(self, skill: Skill, split: str = "train") -> list[Question]:
        return read_jsonl(self.run.stage("questions") / f"{skill}.{split}.jsonl", Question)

    @property
    def whole_lora(self) -> dict[str, Any]:
        """Of one adapter that has to read as well: the parametric one's rank, in all layers."""
        return self.recipe.adapters.parametric.lora | {"layers_to_transform": None}

    @property
    def general(self) -> list[Row]:
        return read_general(self.run.stage("adapters") / GENERAL)

    def atomic(self, skill: Skill) -> list[Group]:
        """The rows of one adapter, as `default` trains it."""
        return by_passages(self.questions(skill))

    @property
    def mixture(self) -> Mixture:
        splits = [q for split in ("train", "validation", "test") for q in self.questions(Skill.COMPLEMENTARY, split)]
        return Mixture({skill: self.questions(skill) for skill in ATOMIC}, splits, self.general)

    @property
    def consolidation(self) -> list[Group]:
        return self.mixture.blocks(
            self.recipe.composition.consolidation.rows, random.Random(f"consolidation {self.seed}")
        )

    def tokens(self, groups: Iterable[Group]) -> int:
        """Prompt and completion of every row, shared or not."""
        texts = [row.prompt + row.completion for group in groups for row in group]
        return sum(map(len, self.tokenizer(texts, add_special_tokens=False).input_ids)) + len(texts)

    def supervised(self, name: str, groups: list[Group], budget: int, settings: dict[str, Any], **how: Any) -> int:
        """Train the arm's adapter `name` on the groups, again and again until the budget is spent; returns the tokens.

        A patient arm has no budget: part after part, each with a schedule of its own, until validation has stopped
        rising; the best part is kept.
        """
        left = cycle(groups)
        if not self.patient:
            return self._part(name, left, budget, settings, **how)
        parts: list[dict[str, Any]] = []
        best = 0
        while len(parts) - best <= PATIENCE and sum(part["tokens"] for part in parts) < MOST:
            part = self.work.folder / f"part {len(parts) + 1}"
            spent = self._part(part.name, left, PART, settings, **how)
            if not (part / "validation.json").is_file():
                write_json(part / "validation.json", {"tokens": spent, "validation": self.validated(part)})
            parts.append(read_json(part / "validation.json"))
            best = max(range(len(parts)), key=lambda at: parts[at]["validation"])
            how = {"start": part}
        folder = self.work.folder / name
        folder.unlink(missing_ok=True)
        folder.symlink_to((self.work.folder / f"part {best + 1}").resolve())
        write_json(self.work.folder / "training.json", {"parts": parts})
        return sum(part["tokens"] for part in parts)

    def _part(self, name: str, groups: Iterator[Group], budget: int, settings: dict[str, Any], **how: Any) -> int:
        chosen, spent = [], 0
        while spent < budget:
            chosen.append(next(groups))
            spent += self.tokens(chosen[-1:])
        settings = {name: value for name, value in settings.items() if name != "num_train_epochs"}
        train_adapter(self.work, name, chosen, settings, name, **how)
        return spent

    def validated(self, adapter: Path) -> float:
        """Percent right of the validation questions that need both skills, over levels."""
        questions = self.questions(Skill.COMPLEMENTARY, "validation")
        found = self.answered(adapter, questions, "validation questions")
        right = [exact_match(text, question.answers) for text, question in zip(found, questions, strict=True)]
        return 100 * macro_mean([(q.level or "", float(was)) for q, was in zip(questions, right, strict=True)])

    def composed(self, start: Path) -> int:
        """Gold traces and GRPO from an adapter, as the recipe has them; returns the tokens."""
        link = self.work.folder / "start"
        if start != link:
            link.unlink(missing_ok=True)
            link.symlink_to(start.resolve())
        if not (self.work.folder / "training.json").is_file():
            compose(self.work, self.base, self.tokenizer, self.mixture, link)
        return self.composed_tokens(self.work.folder)

    def without_traces(self, steps: float) -> None:
        """From here on GRPO alone, and so many times its steps."""
        composition = self.recipe.composition
        grpo = composition.grpo | {"max_steps": round(composition.grpo["max_steps"] * steps)}
        changed = {"composition": composition.model_copy(update={"grpo": grpo, "traces": None})}
        self.recipe = self.recipe.model_copy(update=changed)
        self.work = replace(self.work, recipe=self.recipe)

    def composed_tokens(self, folder: Path) -> int:
        traces = self.recipe.composition.traces_used
        if traces is None:
            return self.grpo_tokens(folder)
        epochs = traces.sft.get("num_train_epochs", 1)
        groups = trace_groups(self.questions(Skill.COMPLEMENTARY), traces.replay, self.mixture, self.seed)
        return self.grpo_tokens(folder) + epochs * self.tokens(groups)

    def grpo_tokens(self, folder: Path) -> int:
        settings, history = self.recipe.composition, read_json(folder / "training.json")["history"]
        rows = settings.grpo["per_device_train_batch_size"] * settings.grpo["gradient_accumulation_steps"]
        sampled = sum(entry["completions/mean_length"] * rows for entry in history)
        replay = Replay(self.mixture, settings.replay.rows, settings.replay.weight, self.seed)
        replayed = self.tokens(chain.from_iterable(replay.at(step) for step in range(len(history))))
        return round(history[-1]["num_tokens"] + sampled) + replayed

    def atomic_tokens(self) -> int:
        """Both adapters and the consolidation."""
        total = self.tokens(self.consolidation)
        for skill in ATOMIC:
            epochs = getattr(self.recipe.adapters, skill).sft["num_train_epochs"]
            total += epochs * self.tokens(self.atomic(skill))
        return total

    def asked(self, name: str, adapter: Path) -> list[list[Any]]:
        """What the adapter got right of the test questions that `default` is asked."""
        tests = TestSet(self.work)
        questions = tests.headline + tests.others
        texts = self.answered(adapter, questions, "test questions")
        found = [judged(name, q, t, exact_match(t, q.answers)) for q, t in zip(questions, texts, strict=True)]
        return [[getattr(prediction, column) for column in KEPT] for prediction in found]

    def answered(self, adapter: Path, questions: list[Question], what: str) -> list[str]:
        model = load_adapter(load_base(self.base), adapter)
        prompts = [prompt(question.text, question.passages) for question in questions]
        with using(model, "default"):
            read, recall = [question.passages for question in questions], Recall.of(self.recipe)
            limit = self.recipe.max_new_tokens
            said = answers(model, self.tokenizer, prompts, read, recall, limit, self.work.progress, what)
        return [one.text for one in said]

    def probe(self, adapter: Path | None) -> list[bool]:
        """Which general questions are answered by the base model, or the policy."""
        return general.answered(self.base, self.tokenizer, adapter, self.work.progress)
