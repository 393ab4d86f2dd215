"""Questions that need both: the first hop is read in the passages, what follows only the weights know.

Split by relation path and by bridge entity. X is the subject that the question names; bridges are the entities between
two hops. Unseen bridges are in no training or validation question; X of validation and test are disjoint from X of
training.
"""

import random
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from itertools import product
from math import ceil

from skillcompose.facts import with_one_answer
from skillcompose.index import Retriever
from skillcompose.prompts import normalise
from skillcompose.questions.proof import Proof
from skillcompose.questions.redaction import Redaction
from skillcompose.questions.walks import Splits, ask, joins
from skillcompose.questions.wordings import asked, referred
from skillcompose.recipe import Recipe, path_relations
from skillcompose.types import Fact, Level, Question, Skill

VALIDATION_BRIDGES = 0.15
SEEN_TEST_SHARE = 0.2
HELD_SUBJECTS = 0.5
TRAIN_WORDINGS = 3
"""Questions about each walk of the largest training path; smaller paths ask in more ways, or RL would forget them."""
FREE_ROWS = 0.3
Walk = tuple[Fact, ...]


def complementary_questions(
    facts: list[Fact], recipe: Recipe, retriever: Retriever, rng: random.Random, dropped: Counter[str]
) -> Splits:
    asked_for = with_one_answer(facts)
    kept = set_aside(asked_for, rng)
    usable = [fact for fact in asked_for if fact.skill is Skill.PARAMETRIC or fact.key not in kept]
    walks = two_source_walks(usable, recipe)
    paths = choose_paths(recipe, walks)
    # However they are spelled: one bridge is not to be two.
    bridges = sorted({b for path in paths.values() for p in path for walk in walks.get(p, []) for b in between(walk)})
    rng.shuffle(bridges)
    cut = round(len(bridges) * recipe.questions.unseen_bridges)
    cut_validation = cut + max(1, round(len(bridges) * VALIDATION_BRIDGES))
    unseen, validation = set(bridges[:cut]), set(bridges[cut:cut_validation])
    # A share of the X of seen bridges is kept from training, so that seen bridges can be tested with new X.
    free_of = {b for b in bridges if b not in unseen | validation}
    subjects = sorted({w[0].subject for p in walks.values() for w in p if free_of.issuperset(between(w))})
    tested = set(rng.sample(subjects, round(len(subjects) * SEEN_TEST_SHARE)))
    proof, redaction = Proof(facts, recipe, retriever), Redaction(facts, recipe)
    chosen: dict[str, dict[str, list[Walk]]] = {split: {} for split in ("test", "validation", "train")}
    for split, found in chosen.items():
        for name in paths[split]:
            # A validation path that the recipe names may ask about every bridge that is not unseen, at the price of the
            # X that training then does without.
            free = split == "validation" and name not in paths["train"] and bool(recipe.questions.validation)
            found[name] = [w for w in walks.get(name, []) if split == _split_of(w, free, unseen, validation, tested)]
    held = held_subjects(chosen, rng)
    splits: Splits = {"train": [], "validation": [], "test": []}
    for split, found in chosen.items():
        kept_walks = [[w for w in some if (w[0].subject in held) == (split != "train")] for some in found.values()]
        most = max(map(len, kept_walks), default=0)
        for path_walks in kept_walks:
            count = ceil(TRAIN_WORDINGS * most / len(path_walks)) if split == "train" and path_walks else 1
            made = [q for walk in path_walks for q in worded(walk, split, count, recipe, rng)]
            proved = proof.keep(made, dropped)
            # Validation too: it decides what is kept of training.
            splits[split] += proved if split == "test" else redaction.rows(proved, dropped)
    seen = {bridge for q in splits["train"] for bridge in map(normalise, q.bridges)}
    trained = {q.path for q in splits["train"]}
    for split, questions in splits.items():
        splits[split] = [
            replace(q, level=level_of(q.path, trained), seen=not seen.isdisjoint(map(normalise, q.bridges)))
            for q in questions
        ]
    # Tested bridges are unseen (in no training and no validation question) or trained on; nothing in between.
    splits["test"] = [q for q in splits["test"] if q.seen or unseen.issuperset(map(normalise, q.bridges))]
    return splits


def set_aside(facts: list[Fact], rng: random.Random) -> set[str]:
    """Rows whose index facts are left to the contextual skill, which may learn from no fact that RL or a test uses.

    Empty where enough rows lead to no weights fact anyway.
    """
    index = [fact for fact in facts if fact.skill is Skill.CONTEXTUAL]
    known = {normalise(fact.subject) for fact in facts if fact.skill is Skill.PARAMETRIC}
    used = {fact.key for fact in index if normalise(fact.object) in known}
    keys = sorted({fact.key for fact in index})
    missing = round(FREE_ROWS * len(keys)) - len(set(keys) - used)
    return set(rng.sample(sorted(used), min(missing, len(used)))) if missing > 0 else set()


def held_subjects(chosen: dict[str, dict[str, list[Walk]]], rng: random.Random) -> set[str]:
    """The X that only validation and test may ask about. Where one X starts walks of several splits, holding all of
    them out could leave training nothing: then at most a share of the X that training could use, drawn at random."""
    wanted = {split: {w[0].subject for walks in found.values() for w in walks} for split, found in chosen.items()}
    elsewhere = wanted["test"] | wanted["validation"]
    rivals = sorted(elsewhere & wanted["train"])
    most = round(HELD_SUBJECTS * len(wanted["train"]))
    return elsewhere - wanted["train"] | set(rivals if len(rivals) <= most else rng.sample(rivals, most))


def _split_of(walk: Walk, any_bridge: bool, unseen: set[str], validation: set[str], tested: set[str]) -> str:
    bridges = set(between(walk))
    if not bridges.isdisjoint(unseen):
        return "test" if bridges <= unseen else "none"
    if any_bridge or not bridges.isdisjoint(validation):
        return "validation"
    return "test" if walk[0].subject in tested else "train"


def between(walk: Walk) -> list[str]:
    """The bridges, normalised."""
    return [normalise(fact.object) for fact in walk[:-1]]


def two_source_walks(facts: list[Fact], recipe: Recipe) -> dict[str, list[Walk]]:
    """Relation path -> walks: an index fact, then weights facts that are each about the object of the one before.

    Of the paths that the recipe names, and of every two hops when it names none to train on. A relation has one object
    for each subject, so a path has at most as many walks as its first relation has facts.
    """
    first: dict[str, list[Fact]] = defaultdict(list)
    about: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        if fact.skill is Skill.CONTEXTUAL:
            first[fact.relation].append(fact)
        else:
            about[fact.relation, normalise(fact.subject)] = fact
    named = [*recipe.questions.train, *recipe.questions.validation, *recipe.questions.test]
    paths = [tuple(path_relations(path)) for path in named]
    if not recipe.questions.train:
        follows = joins(facts, recipe)
        every = product(first, dict.fromkeys(relation for relation, _ in about))
        paths += (path for path in every if follows(*path))
    walks: dict[str, list[Walk]] = {}
    for path in dict.fromkeys(paths):
        found: list[Walk] = [(fact,) for fact in first[path[0]]]
        for relation in path[1:]:
            found = [
                (*walk, following)
                for walk in found
                if (following := about.get((relation, normalise(walk[-1].object)))) and not _returns(walk, following)
            ]
        if found:
            walks[" > ".join(path)] = found
    return walks


def _returns(walk: Walk, fact: Fact) -> bool:
    """Whether the fact leads back: inverse and symmetric relations do, and the answer would be in the question."""
    been = {normalise(name) for hop in walk for name in (hop.key, hop.subject, hop.object)}
    return normalise(fact.object) in been


def choose_paths(recipe: Recipe, walks: dict[str, list[Walk]]) -> dict[str, list[str]]:
    """The paths of each split: the recipe's, or a checkerboard over the relations that leaves to zero-shot the weights
    relation that is guessed most easily, which would reward guesses. Training paths are tested too (I.I.D.),
    validation paths never. Where none is held out, all are trained on. No row of what is sensitive is trained on."""
    trainable = [path for path in walks if not recipe.relation(path_relations(path)[0]).sensitive]
    if not recipe.questions.hold_out:
        return {"train": trainable, "validation": trainable, "test": list(walks)}
    named = {
        split: [" > ".join(path_relations(p)) for p in getattr(recipe.questions, split)]
        for split in ("train", "validation", "test")
    }
    if not named["train"]:
        taken = {*named["validation"], *named["test"]}
        firsts = list(dict.fromkeys(path.split(" > ")[0] for path in trainable))
        ends = dict.fromkeys(path.split(" > ")[1] for path in walks if path.count(" > ") == 1)
        lasts = sorted(ends, key=partial(guessed, walks))
        kept = lasts[:-1] if len(lasts) > 2 else lasts
        grid = {
            f"{a} > {b}": (i + j) % 2 for i, a in enumerate(firsts) for j, b in enumerate(kept) if f"{a} > {b}" in walks
        }
        named["train"] = [path for path, odd in grid.items() if not odd and path not in taken]
        held = [path for path, odd in grid.items() if odd and path not in taken]
        named["validation"] = named["validation"] or held[:1] or named["train"]
        named["test"] = named["test"] or [path for path in walks if path not in named["train"] + named["validation"]]
    named["validation"] = named["validation"] or named["train"]
    named["test"] = list(dict.fromkeys(named["train"] + named["test"]))
    return named


def guessed(walks: dict[str, list[Walk]], relation: str) -> float:
    """The share of questions about a weights relation that its most frequent answer is right for."""
    answers = Counter(
        normalise(walk[-1].object) for some in walks.values() for walk in some if walk[-1].relation == relation
    )
    return max(answers.values()) / answers.total()


def level_of(path: str, trained: set[str]) -> Level:
    used = {name for other in trained for name in path_relations(other)}
    if path in trained:
        return Level.IID
    return Level.COMPOSITION if set(path_relations(path)) <= used else Level.ZERO_SHOT


def worded(walk: Walk, split: str, count: int, recipe: Recipe, rng: random.Random) -> list[Question]:
    """At most so many questions that walk the same way, each worded differently."""
    before = [fact.relation for fact in walk[:-1]]
    names = [referred(name, split, recipe, before[:number]) for number, name in enumerate(before)]
    wordings = [wording for _, wording in asked(walk[-1].relation, split, recipe, before)]
    ways = list(product(wordings, product(*names)))
    chosen = rng.sample(ways, min(count, len(ways)))
    return [
        ask(walk, wording, refer, number, Skill.COMPLEMENTARY, recipe) for number, (wording, refer) in enumerate(chosen)
    ]
