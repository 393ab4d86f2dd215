"""The baseline ladder: the same test questions, answered from ever more of what skillcompose builds."""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from skillcompose.adapters import ATOMIC
from skillcompose.builtin import fingerprint
from skillcompose.evaluation.full_rag import FullRag
from skillcompose.generation import Written, completions
from skillcompose.metrics import exact_match, lenient_match
from skillcompose.models import in_template, load_adapter, load_base, load_tokenizer, using
from skillcompose.prompts import chat, prompt
from skillcompose.questions.probes import REVERSED, REWORDED, reversed_probes, reworded
from skillcompose.recall import Recall
from skillcompose.run import digest, file_digest
from skillcompose.stages import Work
from skillcompose.types import Fact, Level, Passage, Question, Skill, read_json, read_jsonl, write_json

EXAMPLES = 2
ANSWERS = 2  # raise it when the same model would answer the same prompts otherwise
Write = Callable[[str, Sequence[Passage]], str]
Match = Callable[[str, Sequence[str]], bool]


@dataclass(frozen=True)
class Prediction:
    """One answer: `rung` says who gave it, `correct` whether it is an exact match."""

    rung: str
    question: str
    skill: str
    path: str
    level: str
    hops: int
    bridge: str
    seen: bool
    retrieved: bool
    answer: str
    completion: str
    correct: bool
    confidence: float = 0.0


def judged(rung: str, question: Question, text: str, correct: bool, confidence: float = 0.0) -> Prediction:
    return Prediction(
        rung,
        question.id,
        question.skill,
        question.path,
        question.level or "",
        question.hops,
        question.bridges[0] if question.bridges else "",
        question.seen,
        question.retrieved,
        question.answers[0],
        text,
        correct,
        round(confidence, 4),
    )


class TestSet:
    """The test questions that are asked, drawn from the run's by the recipe's seed.

    `headline` are those on unseen bridges, `few` the fixed sample of them that rungs without a target are asked.
    """

    def __init__(self, work: Work) -> None:
        counts, folder = work.recipe.evaluation, work.read("questions")
        rng = random.Random(f"evaluation {work.recipe.seed}")
        asked = read_jsonl(folder / f"{Skill.COMPLEMENTARY}.test.jsonl", Question)
        self.headline = self._sample([q for q in asked if not q.seen], counts.questions, rng)
        self.seen = self._sample([q for q in asked if q.seen], counts.questions // 2 or 1, rng)
        self.few = self._sample(self.headline, counts.ladder, rng)
        self.atomic: dict[Skill, list[Question]] = {}
        for skill in ATOMIC:
            tests = read_jsonl(folder / f"{skill}.test.jsonl", Question)
            by_hops = [[q for q in tests if q.hops == hops] for hops in (1, 2)]
            self.atomic[skill] = [q for group in by_hops for q in rng.sample(group, min(counts.atomic, len(group)))]
        self.probes: dict[str, list[Question]] = {}
        if counts.probes:
            facts = read_jsonl(work.read("facts") / "facts.jsonl", Fact)
            rng = random.Random(f"probes {work.recipe.seed}")
            self.probes[REVERSED] = reversed_probes(facts, work.recipe, counts.probes, rng)
            self.probes[REWORDED] = [
                q for skill in ATOMIC for q in reworded(self.atomic[skill], counts.probes // 2 or 1, rng)
            ]

    @property
    def others(self) -> list[Question]:
        """All but the headline and the probes."""
        return [q for skill in ATOMIC for q in self.atomic[skill]] + self.seen

    @staticmethod
    def _sample(questions: list[Question], per_level: int, rng: random.Random) -> list[Question]:
        levels: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            levels[question.level or ""].append(question)
        return [q for level in Level for q in rng.sample(levels[level], min(per_level, len(levels[level])))]


class Ladder:
    """Every rung answers from one loaded base by switching adapters."""

    def __init__(self, work: Work) -> None:
        self.work, self.recipe, self.tests = work, work.recipe, TestSet(work)
        self.cost: dict[str, dict[str, float]] = {}
        """Rung -> its prompts, their tokens, the seconds that they took."""
        self.answers = work.folder / "answers"
        """By adapter and prompts: an interrupted evaluation goes on from them, another composition asks only itself."""
        self.used: set[Path] = set()
        self.examples = read_jsonl(work.read("questions") / f"{Skill.COMPLEMENTARY}.train.jsonl", Question)
        base = self.recipe.base()
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(base)
        composition = work.read("composition")
        adapters = {
            "composed": composition / "composed",
            "start": composition / "start",
            "traced": composition / "traced",
            "exact_sum": composition / "merged",
            **{str(skill): work.read("adapters") / skill for skill in ATOMIC},
        }
        if not adapters["traced"].is_dir():
            del adapters["traced"]
        self.model: Any = load_base(base)
        for name, adapter in adapters.items():
            self.model = load_adapter(self.model, adapter, name)
        self.weights = {name: file_digest(path / "adapter_model.safetensors") for name, path in adapters.items()}
        self.base, self.recall = fingerprint(base), Recall.of(self.recipe)

    def climb(self) -> list[Prediction]:
        done: list[Prediction] = []
        few = self.tests.few
        done += self._rung("untuned_chat", None, few, self._chat_prompt, lenient_match)
        done += self._rung("base_passages", None, self.tests.headline, match=lenient_match)
        for skill in ATOMIC:
            done += self._rung(skill, skill, self.tests.atomic[skill] + few)
        done += self._rung("exact_sum", "exact_sum", few)
        for name in ("start", "composed"):
            done += self._rung(name, name, self.tests.headline) + self._rung(name, name, self.tests.others)
        done += self._rung("one_pass", "composed", self.tests.headline, again=False)
        if "traced" in self.model.peft_config:
            done += self._rung("traced", "traced", self.tests.headline)
        for kind, asked in self.tests.probes.items():
            for name in (*ATOMIC, "start", "composed"):
                own = [q for q in asked if name not in ATOMIC or q.skill == name]
                done += [replace(p, skill=kind) for p in self._rung(name, name, own)] if own else []
        return done + self._full_rag()

    def _answer(self, rung: str, adapter: str | None, prompts: list[str], line: bool = False) -> list[Written]:
        if not prompts:  # all its bridges are seen ones, say; a tokenizer takes no empty list
            return []
        weights = self.weights[adapter] if adapter else None
        done = self.answers / f"{digest([ANSWERS, self.base, weights, prompts, self.recipe.max_new_tokens, line])}.json"
        self.used.add(done)
        if not done.is_file():
            begin = time.monotonic()
            with using(self.model, adapter):
                limit, progress = self.recipe.max_new_tokens, self.work.progress
                said = completions(self.model, self.tokenizer, prompts, limit, progress, rung, line)
            done.parent.mkdir(exist_ok=True)
            write_json(done, {"answers": said, "seconds": time.monotonic() - begin})
        found = read_json(done)
        tokens = sum(len(ids) for ids in self.tokenizer(prompts, add_special_tokens=False).input_ids)
        cost = self.cost.setdefault(rung, {"prompts": 0, "prompt_tokens": 0, "seconds": 0.0})
        for name, value in zip(cost, (len(prompts), tokens, found["seconds"]), strict=True):
            cost[name] = round(cost[name] + value, 1)
        return [Written(*said) for said in found["answers"]]

    def forget_unused(self) -> None:
        """Remove answers of policies and questions of before."""
        for path in set(self.answers.glob("*")) - self.used:
            path.unlink()

    def _rung(
        self,
        rung: str,
        adapter: str | None,
        asked: list[Question],
        written: Write = prompt,
        match: Match = exact_match,
        again: bool = True,
    ) -> list[Prediction]:
        """`again`: what an adapter knows is asked again, as where the policy is used."""
        ask = partial(self._answer, rung, adapter)
        said = ask([written(q.text, q.passages) for q in asked])
        if again and adapter not in (None, Skill.CONTEXTUAL):
            said = self.recall.again(said, [q.passages for q in asked], partial(ask, line=True))
        found = zip(asked, said, strict=True)
        return [judged(rung, q, one.text, match(one.text, q.answers), one.confidence) for q, one in found]

    def _chat_prompt(self, question: str, passages: Sequence[Passage] = ()) -> str:
        """The instruct model's own chat template with two worked examples; plain text when it has none."""
        examples = [
            (prompt(q.text, q.passages).removesuffix("Answer:\n").strip(), q.completion)
            for q in self.examples[:EXAMPLES]
        ]
        if self.tokenizer.chat_template is None:
            shots = [prompt(q.text, q.passages) + q.completion for q in self.examples[:EXAMPLES]]
            return "\n\n".join([*shots, prompt(question, passages)])
        system, first, *turns = chat(question, passages, examples)
        try:
            return in_template(self.tokenizer, [system, first, *turns])
        except TemplateError:  # this model's has no place for a system message
            first = first | {"content": f"{system['content']}\n\n{first['content']}"}
            return in_template(self.tokenizer, [first, *turns])

    def _full_rag(self) -> list[Prediction]:
        """The untuned model and the contextual adapter, with every fact in the index."""
        full, done = FullRag(self.work.run, self.recipe), []
        rungs: tuple[tuple[str, str | None, Write, Match], ...] = (
            ("full_rag_untuned", None, self._chat_prompt, lenient_match),
            ("full_rag_contextual", Skill.CONTEXTUAL, prompt, exact_match),
        )
        for rung, adapter, written, match in rungs:
            asked = full.read(self.tests.few, partial(self._texts, rung, adapter, written))
            done += self._rung(rung, adapter, asked, written, match)
        return done

    def _texts(self, rung: str, adapter: str | None, written: Write, asked: Sequence[Question]) -> list[str]:
        return [said.text for said in self._answer(rung, adapter, [written(q.text, q.passages) for q in asked])]
