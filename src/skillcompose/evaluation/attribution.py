"""What each source contributes: the same questions closed book, with passages, without the supporting one, and with one
that says something else."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from skillcompose.adapters.mastery import sample
from skillcompose.builtin import resolve
from skillcompose.generation import answer_texts
from skillcompose.index.writing import sentence
from skillcompose.metrics import bootstrap, exact_match
from skillcompose.models import load_adapter, load_base, load_tokenizer, using
from skillcompose.pipeline import load_recipe
from skillcompose.progress import Progress
from skillcompose.prompts import ABSTENTION, NOT_IN_PASSAGES, normalise, prompt
from skillcompose.recipe import Recipe
from skillcompose.run import Run
from skillcompose.types import Fact, Passage, Question, Skill, read_jsonl, write_json

RUNGS = ("start", "composed")
MEANING = {
    "both": "with its passages",
    "closed book": "without passages: what is remembered of facts that should be read",
    "not supported": "without the supporting passage: what is guessed",
    "not supported, says so": "without the supporting passage: answers that the passages do not say",
    "conflict, passage followed": "the passage leads to another entity: answers about that one",
    "conflict, old answer": "the passage leads to another entity: answers as if it did not",
}
"""What is measured, in this order, and what it tells."""


class Conflicts:
    """Questions whose supporting passage leads to another bridge, with the answer that follows from it."""

    def __init__(self, facts: Iterable[Fact], recipe: Recipe) -> None:
        self.recipe = recipe
        self.by_id = {fact.id: fact for fact in facts}
        self.about = {(f.relation, normalise(f.subject)): f for f in self.by_id.values() if f.skill is Skill.PARAMETRIC}

    def make(self, question: Question, rng: random.Random) -> Question | None:
        """None when no passage states the first hop, when it is about its own row (a passage's title would still name
        it), or when no other bridge has an answer of its own."""
        first, *rest = (self.by_id[fact_id] for fact_id in question.fact_ids)
        stated = sentence(first, self.recipe)
        if normalise(first.object) == normalise(first.key) or not any(
            stated in passage.text for passage in question.passages
        ):
            return None
        others = sorted({fact.subject for fact in self.about.values()} - {first.object})
        for other in rng.sample(others, len(others)):
            name = other
            for hop in rest:
                found = self.about.get((hop.relation, normalise(name)))
                name = found.object if found else ""
            if name and normalise(name) != normalise(question.answers[0]):
                said = sentence(replace(first, object=other), self.recipe)
                return replace(
                    question,
                    passages=tuple(replace(p, text=p.text.replace(stated, said)) for p in question.passages),
                    answers=(name,),
                )
        return None


def without_support(question: Question, facts: dict[str, Fact]) -> Question:
    key = normalise(facts[question.fact_ids[0]].key)
    kept: tuple[Passage, ...] = tuple(p for p in question.passages if normalise(p.title) != key)
    return replace(question, passages=kept)


def measure(run: Run, count: int, progress: Progress | None = None) -> dict[str, Any]:
    """`{rung: {what: {"share", "interval", "asked"}}}` on unseen bridges; also in `diagnosis/attribution.json`."""
    recipe, composition = load_recipe(run), run.require("composition")
    rng = random.Random(f"attribution {recipe.seed}")
    every = read_jsonl(run.require("facts") / "facts.jsonl", Fact)
    facts, conflicts = {fact.id: fact for fact in every}, Conflicts(every, recipe)
    tests = read_jsonl(run.require("questions") / f"{Skill.COMPLEMENTARY}.test.jsonl", Question)
    plain = sample([q for q in tests if not q.seen and q.retrieved], count, recipe.seed)
    removed = [without_support(q, facts) for q in plain]
    pairs = [(made, q) for q in plain if (made := conflicts.make(q, rng))]
    asked = [*plain, *(replace(q, passages=()) for q in plain), *removed, *(made for made, _ in pairs)]
    base = resolve(recipe.model, recipe.source.parent)
    tokenizer, model = load_tokenizer(base), load_base(base)
    found: dict[str, Any] = {}
    for rung in RUNGS:
        model = load_adapter(model, composition / rung, rung)
        with using(model, rung):
            prompts = [prompt(q.text, q.passages) for q in asked]
            texts = answer_texts(model, tokenizer, prompts, recipe.max_new_tokens, progress or Progress(), rung)
        parts = [texts[i * len(plain) : (i + 1) * len(plain)] for i in range(3)] + [texts[3 * len(plain) :]]
        right = [_right(part, plain) for part in parts[:3]]
        abstained = [text.startswith(ABSTENTION.split("\n")[0]) or NOT_IN_PASSAGES in text for text in parts[2]]
        scores = [*right, abstained, _right(parts[3], [m for m, _ in pairs]), _right(parts[3], [q for _, q in pairs])]
        clusters = [[q.bridges[0] for q in questions] for questions in [plain] * 4 + [[q for _, q in pairs]] * 2]
        found[rung] = {
            name: _cell(*cell) for name, cell in zip(MEANING, zip(scores, clusters, strict=True), strict=True)
        }
    folder = run.folder / "diagnosis"
    folder.mkdir(exist_ok=True)
    write_json(folder / "attribution.json", found)
    return found


def _right(texts: Sequence[str], questions: Sequence[Question]) -> list[bool]:
    return [exact_match(text, question.answers) for text, question in zip(texts, questions, strict=True)]


def _cell(scores: Sequence[bool], clusters: Sequence[str]) -> dict[str, Any]:
    low, high = bootstrap([float(score) for score in scores], clusters)
    share = sum(scores) / len(scores) if scores else 0.0
    return {"share": round(share, 4), "interval": [round(low, 4), round(high, 4)], "asked": len(scores)}


def as_text(found: dict[str, Any]) -> str:
    """A table in percent, with what each line means."""
    lines = [f"{'':28}" + "".join(f"{rung:>18}" for rung in found)]
    for name, meaning in MEANING.items():
        cells = [found[rung][name] for rung in found]
        shown = (f"{100 * c['share']:.0f} [{100 * c['interval'][0]:.0f}, {100 * c['interval'][1]:.0f}]" for c in cells)
        lines.append(f"{name:28}" + "".join(f"{text:>18}" for text in shown) + f"  {meaning}")
    return "\n".join([*lines, f"{found['start']['both']['asked']} questions on unseen bridges, percent, [95 %]"])
