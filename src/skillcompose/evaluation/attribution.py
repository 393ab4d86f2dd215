"""What each source contributes: the same questions closed book, with passages, without the supporting one, and with one
that says something else."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from skillcompose.adapters.mastery import sample
from skillcompose.evaluation.full_rag import FullRag
from skillcompose.generation import completions
from skillcompose.index.writing import sentence
from skillcompose.metrics import bootstrap, exact_match
from skillcompose.models import load_adapter, load_base, load_tokenizer, using
from skillcompose.pipeline import load_recipe
from skillcompose.progress import Progress
from skillcompose.prompts import ABSTENTION, NOT_IN_PASSAGES, normalise, prompt
from skillcompose.recipe import Recipe
from skillcompose.run import Run
from skillcompose.types import Fact, Passage, Question, Skill, read_jsonl, write_json

FULL_RAG = "full RAG"
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
    """`{rung: {what: {"share", "interval", "asked"}}}` on unseen bridges; also in `diagnosis/attribution.json`.

    The start, the composed policy, and full RAG: the contextual adapter with every fact in the index, which may find
    the answer of a second hop that the others must know.
    """
    recipe, composition = load_recipe(run), run.require("composition")
    folder = run.folder / "diagnosis"
    folder.mkdir(exist_ok=True)
    every = read_jsonl(run.require("facts") / "facts.jsonl", Fact)
    facts, conflicts = {fact.id: fact for fact in every}, Conflicts(every, recipe)
    tests = read_jsonl(run.require("questions") / f"{Skill.COMPLEMENTARY}.test.jsonl", Question)
    chosen = sample([q for q in tests if not q.seen and q.retrieved], count, recipe.seed)
    base = recipe.base()
    tokenizer, model = load_tokenizer(base), load_base(base)
    adapters = {name: composition / name for name in ("start", "composed")}
    adapters[FULL_RAG] = run.require("adapters") / Skill.CONTEXTUAL
    found: dict[str, Any] = {}
    for rung, adapter in adapters.items():
        name = rung.replace(" ", "_")
        model = load_adapter(model, adapter, name)

        def answers(asked: Sequence[Question], policy: Any = model, rung: str = rung) -> list[str]:
            prompts = [prompt(q.text, q.passages) for q in asked]
            said = completions(policy, tokenizer, prompts, recipe.max_new_tokens, progress or Progress(), rung)
            return [one.text for one in said]

        with using(model, name):
            asked = FullRag(run, recipe).read(chosen, answers) if rung == FULL_RAG else chosen
            pairs = [(made, q) for q in asked if (made := conflicts.make(q, random.Random(f"{recipe.seed} {q.id}")))]
            removed = [without_support(q, facts) for q in asked]
            texts = answers([*asked, *(replace(q, passages=()) for q in asked), *removed, *(made for made, _ in pairs)])
        parts = [texts[i * len(asked) : (i + 1) * len(asked)] for i in range(3)] + [texts[3 * len(asked) :]]
        right = [_right(part, asked) for part in parts[:3]]
        abstained = [text.startswith(ABSTENTION.split("\n")[0]) or NOT_IN_PASSAGES in text for text in parts[2]]
        scores = [*right, abstained, _right(parts[3], [m for m, _ in pairs]), _right(parts[3], [q for _, q in pairs])]
        clusters = [[q.bridges[0] for q in questions] for questions in [asked] * 4 + [[q for _, q in pairs]] * 2]
        cells = zip(MEANING, zip(scores, clusters, strict=True), strict=True)
        found[rung] = {what: _cell(*cell) for what, cell in cells}
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
