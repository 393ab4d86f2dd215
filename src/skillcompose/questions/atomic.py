"""Questions of one skill: the weights alone, or the passages alone; one hop or two."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

from skillcompose.index import Retriever
from skillcompose.index.writing import statement
from skillcompose.prompts import ABSTENTION, NOT_IN_PASSAGES, completion, mentions, normalise
from skillcompose.questions.wordings import of_split, questions, references, references_of_split
from skillcompose.recipe import Recipe
from skillcompose.types import Fact, Question, Skill

Splits = dict[str, list[Question]]
CHAIN_WORDINGS = 3
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}
DISTRACTORS = 20


def ask(hops: list[Fact], wording: str, reference: str, number: int, skill: Skill, recipe: Recipe) -> Question:
    """The question that walks these facts, with its gold reasoning. `reference` names the first hop's object."""
    subject = hops[0].subject if len(hops) == 1 else reference.format(subject=hops[0].subject)
    text = wording.format(subject=subject)
    answer = hops[-1].object
    sentences = [statement(fact.relation, fact.subject, fact.object, recipe) for fact in hops]
    path = " > ".join(fact.relation for fact in hops)
    ident = f"{skill}:{path}:{hops[0].subject}:{number}"
    return Question(
        ident,
        text[0].upper() + text[1:],
        (answer,),
        completion(sentences, answer),
        skill,
        path,
        tuple(fact.id for fact in hops),
        bridge=hops[0].object if len(hops) > 1 else "",
        wording=number,
    )


def chains(facts: list[Fact]) -> Iterator[list[Fact]]:
    """Two-hop walks: the first fact's object is the second one's subject, and the walk does not turn back."""
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_subject[normalise(fact.subject)].append(fact)
    for first in facts:
        for second in by_subject[normalise(first.object)]:
            if normalise(second.object) != normalise(first.subject) and second.relation != first.relation:
                yield [first, second]


def parametric_questions(facts: list[Fact], recipe: Recipe, rng: random.Random) -> Splits:
    """Every weights fact in every training wording, and chains: whole subjects are held out of chain training."""
    known = [fact for fact in facts if fact.skill is Skill.PARAMETRIC]
    splits: Splits = {split: [] for split in SHARES}
    for fact in known:
        for split in splits:
            for number, wording in of_split(questions(fact.relation, recipe), split):
                splits[split].append(ask([fact], wording, "", number, Skill.PARAMETRIC, recipe))
    splits["train"] += _profiles(known, recipe, rng)
    _add_chains(splits, list(chains(known)), Skill.PARAMETRIC, recipe, rng)
    return splits


def _profiles(known: list[Fact], recipe: Recipe, rng: random.Random) -> list[Question]:
    """Everything about one subject in one row, each time in another order.

    A fact that was only ever the first sentence of an answer is not recalled as the second one, and a row of several
    facts costs half the tokens of as many questions.
    """
    about: dict[str, list[Fact]] = defaultdict(list)
    for fact in known:
        about[fact.subject].append(fact)
    rows = []
    for subject, facts in about.items():
        for number in range(recipe.questions.profiles if len(facts) > 1 else 0):
            order = rng.sample(facts, len(facts))
            sentences = [statement(fact.relation, fact.subject, fact.object, recipe) for fact in order]
            rows.append(
                Question(
                    f"profile:{subject}:{number}",
                    f"What is known about {subject}?",
                    (subject,),
                    completion(sentences, subject),
                    Skill.PARAMETRIC,
                    "profile",
                    (),  # no hops: neither a single question nor a chain
                    wording=number,
                )
            )
    return rows


def _add_chains(splits: Splits, walks: list[list[Fact]], skill: Skill, recipe: Recipe, rng: random.Random) -> None:
    place = divide(sorted({walk[0].object for walk in walks}), rng)
    for walk in walks:
        split = place[walk[0].object]
        wordings = of_split(questions(walk[1].relation, recipe), split)
        names = references_of_split(references(walk[0].relation, recipe), split)
        for number, wording in rng.sample(wordings, min(CHAIN_WORDINGS, len(wordings))):
            splits[split].append(ask(walk, wording, rng.choice(names), number, skill, recipe))


def divide(entities: list[str], rng: random.Random) -> dict[str, str]:
    """Entity -> split, by `SHARES`."""
    shuffled = rng.sample(entities, len(entities))
    first, second = round(len(shuffled) * SHARES["train"]), round(len(shuffled) * (1 - SHARES["test"]))
    return {e: "train" if i < first else "validation" if i < second else "test" for i, e in enumerate(shuffled)}


def contextual_questions(
    facts: list[Fact], reserved: set[str], recipe: Recipe, retriever: Retriever, rng: random.Random
) -> Splits:
    """Reading questions about facts that no complementary question uses, split by row.

    Training rows are copies with invented names, new in every row, so that nothing in them can be remembered.
    Their distractors are retrieved ones that state no reserved fact.
    """
    free = [fact for fact in facts if fact.skill is Skill.CONTEXTUAL and fact.id not in reserved]
    place = divide(sorted({fact.key for fact in free}), rng)
    walks = [[fact] for fact in free] + [walk for walk in chains(free) if walk[0].key == walk[1].key]
    held = {name: [walk for walk in walks if place[walk[0].key] == name] for name in SHARES}
    splits: Splits = {split: [] for split in SHARES}
    for split in ("validation", "test"):
        for walk in held[split]:
            number, wording = of_split(questions(walk[-1].relation, recipe), split)[0]
            reference = rng.choice(references_of_split(references(walk[0].relation, recipe), split))
            splits[split].append(ask(walk, wording, reference, number, Skill.CONTEXTUAL, recipe))
        splits[split] = with_passages(splits[split], facts, recipe, retriever)
    splits["train"] = _training_rows(held["train"], facts, reserved, recipe, retriever, rng)
    return splits


def with_passages(asked: list[Question], facts: list[Fact], recipe: Recipe, retriever: Retriever) -> list[Question]:
    """The questions with what the index returns for them at the recipe's k, in its order."""
    titles = {fact.id: normalise(fact.key) for fact in facts}
    done = []
    for question, found in zip(asked, retriever.search([q.text for q in asked], recipe.index.k), strict=True):
        passages = tuple(hit.passage for hit in found)
        hit = any(normalise(p.title) == titles[question.fact_ids[0]] for p in passages)
        done.append(replace(question, passages=passages, retrieved=hit))
    return done


def _training_rows(
    walks: list[list[Fact]],
    facts: list[Fact],
    reserved: set[str],
    recipe: Recipe,
    retriever: Retriever,
    rng: random.Random,
) -> list[Question]:
    if not walks:
        return []
    shown = {normalise(p.title): p for p in retriever.passages}
    secret = {normalise(f.key) for f in facts if f.id in reserved and f.skill is Skill.CONTEXTUAL}
    # Half of the rows walk two hops where there are such walks: reading a chain is the harder half of the skill.
    single, double = [w for w in walks if len(w) == 1], [w for w in walks if len(w) == 2]
    chosen = [
        rng.choice(double if double and (i % 2 or not single) else single)
        for i in range(recipe.questions.contextual_rows)
    ]
    rows = []
    for walk in chosen:
        number, wording = rng.choice(of_split(questions(walk[-1].relation, recipe), "train"))
        reference = rng.choice(references_of_split(references(walk[0].relation, recipe), "train"))
        rows.append(ask(walk, wording, reference, number, Skill.CONTEXTUAL, recipe))
    found = retriever.search([row.text for row in rows], DISTRACTORS)
    finished: list[Question] = []
    for row, walk, hits in zip(rows, chosen, found, strict=True):
        gold = shown[normalise(walk[0].key)]
        others = [h.passage for h in hits if h.passage.id != gold.id and normalise(h.passage.title) not in secret]
        # A distractor must not answer the question by chance.
        others = [p for p in others if not mentions(f"{p.title} {p.text}", walk[-1].object)]
        missing = rng.random() < recipe.questions.missing and len(others) >= recipe.index.k
        passages = others[: recipe.index.k] if missing else [gold, *others[: recipe.index.k - 1]]
        rng.shuffle(passages)
        rename = invent([walk[0].key, *(fact.object for fact in walk), *(p.title for p in passages)], rng)
        finished.append(
            replace(
                row,
                id=f"{row.id}:{len(finished)}",
                text=rename(row.text),
                answers=(NOT_IN_PASSAGES,) if missing else tuple(map(rename, row.answers)),
                completion=ABSTENTION if missing else rename(row.completion),
                passages=tuple(replace(p, title=rename(p.title), text=rename(p.text)) for p in passages),
                retrieved=not missing,
            )
        )
    return finished


def invent(names: list[str], rng: random.Random) -> Callable[[str], str]:
    """A function that replaces these names, wherever they stand as whole words, by invented ones of the same shape.

    All names of a row must be given, distractors' too: one invented name among real ones would give the answer away.
    Equal parts get equal inventions, so that `httpd-mod-a` and `httpd-mod-b` stay as easy to confuse as they are.
    """
    parts: dict[str, str] = {}

    def part(found: re.Match[str]) -> str:
        old = found.group()
        return parts.setdefault(old.casefold(), _invented(old, rng))

    table = {name.casefold(): re.sub(r"[A-Za-z]+|\d+", part, name) for name in dict.fromkeys(names)}
    pattern = re.compile(
        r"(?<!\w)(" + "|".join(re.escape(n) for n in sorted(table, key=len, reverse=True)) + r")(?!\w)", re.I
    )
    return lambda text: pattern.sub(lambda found: table[found.group().casefold()], text)


def _invented(part: str, rng: random.Random) -> str:
    if part.isdigit():
        return str(rng.randrange(10 ** (len(part) - 1), 10 ** len(part)))
    start = rng.randrange(2)
    word = "".join(
        rng.choice("aeiou" if (i + start) % 2 else "bcdfghjklmnprstvwz") for i in range(min(6, max(3, len(part))))
    )
    return word.upper() if part.isupper() and len(part) > 1 else word.capitalize() if part[0].isupper() else word
