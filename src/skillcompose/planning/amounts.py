"""How much there is to do: rows and tokens of each stage, counted where stage `questions` has run, else estimated from
the facts, the recipe's words and the size of the documents. No model is loaded."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillcompose.prompts import completion, normalise, passage_block, prompt
from skillcompose.recipe import Recipe, path_relations
from skillcompose.run import Run
from skillcompose.sections import Relation
from skillcompose.types import Fact, Level, Passage, Question, Skill, read_jsonl

Count = Callable[[list[str]], list[int]]
SAMPLE = 400  # rows of a file whose tokens are counted; the rest are taken to be like them
LETTERS = 3.5  # of a token, where the model is not there to ask
WORD_BYTES = {".md": 6.5, ".markdown": 6.5, ".txt": 6.5, ".html": 12.0, ".htm": 12.0, ".xhtml": 12.0}
OTHER_BYTES = 25.0  # of a PDF or an office file, for one word
TRAINED, HELD, TESTED = 0.6, 0.15, 0.25  # shares of the splits
GROWTH = 0.65  # of a one-hop answer, for each further hop: a statement without the final line
INVENTED = 1.3  # tokens of an invented name, for one of a real one
SEEN = 0.03  # of the walks are test questions on seen bridges: with subjects that are held out of training
FREE = 0.85  # of the index facts are left to the contextual skill
WORDINGS = 6  # of each relation in training, when the recipe has none
COMPLEMENTARY = 3  # training rows of a walk: `TRAIN_WORDINGS`, which lives beside torch
GENERAL_KEPT, GENERAL_TOKENS = 0.6, 100  # of the base's conversations, and tokens of one, which the base reads as well


@dataclass(frozen=True)
class Amounts:
    counted: bool
    """Whether the questions were there to be counted."""
    passages: int
    """Of the index."""
    words: int
    """Of the passages of the index."""
    document_words: int
    block: float
    """Tokens of the passages that stand in one prompt."""
    rows: dict[str, int]
    """Training rows by skill."""
    tokens: dict[str, int]
    """Of these rows, passages that several rows share counted once."""
    question: dict[str, float]
    """Tokens of a question without passages, by skill."""
    answer: dict[str, float]
    """One-hop answers of the atomic skills; of the paths that are trained on, complementary."""
    asked: dict[str, dict[str, list[int]]]
    """Split -> atomic skill -> questions there are, of one hop and of two."""
    validation: int
    """Complementary validation questions."""
    unseen: dict[str, int]
    """Complementary test questions by level, on unseen bridges and below on seen ones."""
    seen: dict[str, int]


def counter(base: Path | None) -> Count:
    """Counts tokens of texts with the base model's tokenizer."""
    file = base / "tokenizer.json" if base else None
    if file is None or not file.is_file():
        return lambda texts: [round(len(text) / LETTERS) for text in texts]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    return lambda texts: [len(found.ids) for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


def amounts(recipe: Recipe, run: Run, facts: list[Fact], count: Count, counted: bool) -> Amounts:
    """`counted`: stage `questions` is up to date, so its rows are what will be trained on."""
    documents = document_words(recipe)
    texts = list(index_texts(recipe, run, facts))
    words = sum(len(text.split()) for text in texts)
    if run.record("index") is None and run.record("passages") is None:
        words += documents
        texts += [" ".join(["word"] * 100)] * (documents // 100)  # as an average section has
    block = recipe.index.k * mean(count(texts[:: max(1, len(texts) // SAMPLE)]))
    found = _counted(recipe, run, count) if counted else _estimated(recipe, facts, count, block)
    return Amounts(counted, len(texts), words, documents, **{"block": block} | found)


def document_words(recipe: Recipe) -> int:
    from skillcompose.tables import TABLES

    files = (path for path in recipe.folder.rglob("*") if path.is_file() and path.suffix.lower() not in TABLES)
    sizes = ((path.suffix.lower(), path.stat().st_size) for path in files)
    largest = recipe.passages.max_megabytes * 2**20
    return int(sum(size / WORD_BYTES.get(kind, OTHER_BYTES) for kind, size in sizes if size <= largest))


def index_texts(recipe: Recipe, run: Run, facts: list[Fact]) -> Iterator[str]:
    """The passages of the index as a prompt shows them, as far as they can be known."""
    if run.record("index") is not None:
        yield from _shown(run.stage("index"))
        return
    if run.record("passages") is not None:
        yield from _shown(run.stage("passages"))
    rendered: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        if fact.skill is Skill.CONTEXTUAL:
            rendered[fact.key].append(stated(fact, recipe.relation(fact.relation), passage=True))
    yield from (f"[1] {key}: {' '.join(sentences)}\n" for key, sentences in rendered.items())


def _shown(folder: Path) -> Iterator[str]:
    return (passage_block([passage]) for passage in read_jsonl(folder / "passages.jsonl", Passage))


def stated(fact: Fact, relation: Relation, passage: bool = False) -> str:
    words = (relation.passage if passage else "") or relation.statement
    words = words or "The " + fact.relation.replace("_", " ") + " of {subject} is {object}."
    return words.format(subject=fact.subject, object=fact.object)


def _counted(recipe: Recipe, run: Run, count: Count) -> dict[str, Any]:
    folder = run.stage("questions")

    def of(skill: str, split: str) -> list[Question]:
        return read_jsonl(folder / f"{skill}.{split}.jsonl", Question)

    rows, tokens, question, answer = {}, {}, {}, {}
    block = 0.0
    for skill in Skill:
        found = [row for row in of(skill, "train") if not row.named]
        sample = found[:: max(1, len(found) // SAMPLE)]
        asks, says = (count([say(row) for row in sample]) for say in (_asks, _says))
        # Not the contextual skill's training rows: names are invented in them.
        held = sample if skill is not Skill.CONTEXTUAL else of(skill, "validation")[:SAMPLE]
        single = [row for row in held if row.hops == 1] or held
        question[str(skill)] = mean(count(list(map(_asks, single))))
        answer[str(skill)] = mean(count(list(map(_says, single if skill is not Skill.COMPLEMENTARY else held)))) + 1
        sets = {passage_block(row.passages) for row in found} - {""}
        shown = sorted(sets)[:: max(1, len(sets) // SAMPLE)]
        size = mean(count(shown))
        if skill is not Skill.PARAMETRIC:
            block = size
        rows[str(skill)] = len(found)
        tokens[str(skill)] = round(len(found) * (mean(asks) + mean(says) + 1) + len(sets) * size)
    asked = {
        split: {skill: _by_hops(of(skill, split)) for skill in ("parametric", "contextual")}
        for split in ("validation", "test")
    }
    tests, validation = of(Skill.COMPLEMENTARY, "test"), len(of(Skill.COMPLEMENTARY, "validation"))
    unseen, seen = (Counter(str(row.level) for row in tests if row.seen is kind) for kind in (False, True))
    return {"rows": rows, "tokens": tokens, "question": question, "answer": answer, "asked": asked,
            "block": block, "validation": validation, "unseen": dict(unseen), "seen": dict(seen)}  # fmt: skip


def _asks(row: Question) -> str:
    return prompt(row.text)


def _says(row: Question) -> str:
    return row.completion


def _by_hops(rows: Iterable[Question]) -> list[int]:
    found = Counter(row.hops for row in rows if row.retrieved)
    return [found[1], found[2]]


def _estimated(recipe: Recipe, facts: list[Fact], count: Count, block: float) -> dict[str, Any]:
    settings = recipe.questions
    known = [fact for fact in facts if fact.skill is Skill.PARAMETRIC]
    read = [fact for fact in facts if fact.skill is Skill.CONTEXTUAL]
    question, answer = {}, {}
    for skill, some in ((Skill.PARAMETRIC, known), (Skill.CONTEXTUAL, read)):
        some = some[:: max(1, len(some) // SAMPLE)]
        question[str(skill)] = mean(count([prompt(_worded(fact, recipe)) for fact in some]))
        golds = [completion([stated(fact, recipe.relation(fact.relation))], fact.object) for fact in some]
        answer[str(skill)] = mean(count(golds)) + 1
    hops = mean([len(path_relations(path)) for path in settings.train]) or 2.0
    question["complementary"] = question["parametric"] + 3.5 * (hops - 1)  # a phrase in the subject's place
    answer["complementary"] = answer["contextual"] + GROWTH * (hops - 1) * answer["parametric"]
    one, two = question["parametric"], answer["parametric"]
    about = Counter(fact.subject for fact in known)
    profiles = settings.profiles * sum(number > 1 for number in about.values())
    facts_each = mean([number for number in about.values() if number > 1])
    chained = _chains(known)
    single = sum(min(settings.wordings, _wordings(recipe.relation(fact.relation))) for fact in known)
    double = round(TRAINED * chained * min(3, mean(_wordings(r) for r in recipe.facts.relations.values())))
    rows = {"parametric": single + profiles + double, "contextual": settings.contextual_rows}
    tokens = {
        "parametric": single * (one + two)
        + profiles * (one + facts_each * GROWTH * two)
        + double * (one + 3.5 + (1 + GROWTH) * two),
        # Half of these are of two hops, in all of them names are invented.
        "contextual": settings.contextual_rows
        * (question["contextual"] + 3.5 / 2 + (1 + GROWTH / 2) * answer["contextual"])
        * INVENTED
        + settings.contextual_rows / 4 * block,
    }
    walks, kept = _walks(recipe, facts)
    sets = round((1 - settings.unseen_bridges) * walks[str(Level.IID)])
    rows["complementary"] = COMPLEMENTARY * sets
    tokens["complementary"] = sets * (block + COMPLEMENTARY * (question["complementary"] + answer["complementary"]))
    asked = {
        split: {
            "parametric": [len(known), round(share * chained)],
            "contextual": [round(share * FREE * len(read)), round(0.2 * share * FREE * len(read))],
        }
        for split, share in (("validation", HELD), ("test", TESTED))
    }
    unseen = settings.unseen_bridges
    own = settings.hold_out and settings.validation and set(settings.validation).isdisjoint(settings.train)
    free = 1.0 if own else HELD
    return {
        "rows": rows,
        "tokens": {skill: round(number) for skill, number in tokens.items()},
        "question": question,
        "answer": answer,
        "asked": asked,
        "validation": round((1 - unseen) * free * kept * walks.pop("validation")),
        "unseen": {level: round(unseen * kept * number) for level, number in walks.items()},
        "seen": {level: round(SEEN * number) for level, number in walks.items()},
    }


def _worded(fact: Fact, recipe: Recipe) -> str:
    relation = recipe.relation(fact.relation)
    words = relation.questions[0] if relation.questions else "What is the " + fact.relation + " of {subject}?"
    return words.format(subject=fact.subject)


def _wordings(relation: Relation) -> int:
    return len(relation.questions) - 2 if relation.questions else WORDINGS


def _chains(known: list[Fact]) -> int:
    """Walks of two weights facts that do not turn back."""
    about: dict[str, list[Fact]] = defaultdict(list)
    for fact in known:
        about[normalise(fact.subject)].append(fact)
    return sum(
        normalise(second.object) != normalise(first.subject) and second.relation != first.relation
        for first in known
        for second in about.get(normalise(first.object), ())
    )


def _walks(recipe: Recipe, facts: list[Fact]) -> tuple[Counter[str], float]:
    """Walks that need two sources, by the level of their path, and those of the validation paths; and the share of
    the tested ones that is left when their subjects are held out of training."""
    about = {(fact.relation, normalise(fact.subject)): fact.object for fact in facts}
    first: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.skill is Skill.CONTEXTUAL:
            first[fact.relation].append(fact)

    def subjects(paths: list[list[str]]) -> list[str]:
        """Where the walks of these paths begin, once for each walk."""
        found = []
        for path in paths:
            for fact in first[path[0]]:
                end: str | None = fact.object
                for relation in path[1:]:
                    end = about.get((relation, normalise(end))) if end else None
                found += [fact.subject] if end else []
        return found

    train = [path_relations(path) for path in recipe.questions.train]
    test = [path_relations(path) for path in recipe.questions.test]
    if not train:  # every two hops, half of them trained on
        known = [name for name, relation in recipe.facts.relations.items() if relation.place == "weights"]
        every = [[one, two] for one in sorted(first) for two in known]
        train, test = every[::2], [*test, *every[1::2]]
    validation = [path_relations(path) for path in recipe.questions.validation] or train[:1]
    if not recipe.questions.hold_out:
        train = validation = [*train, *(path for path in [*validation, *test] if path not in train)]
        test = []
    used = {relation for path in train for relation in path}
    begins = {
        Level.IID: subjects(train),
        Level.COMPOSITION: subjects([path for path in test if used.issuperset(path)]),
        Level.ZERO_SHOT: subjects([path for path in test if not used.issuperset(path)]),
        "validation": subjects(validation),
    }
    # A subject with several first hops is wanted by training and by a test; at most half of training's may be held.
    leads = Counter(subject for some in first.values() for subject in {fact.subject for fact in some})
    each = mean([leads[subject] for subject in set(begins[Level.IID])])
    rivals = 1 - (1 - recipe.questions.unseen_bridges) ** max(0.0, each - 1)
    kept = min(1.0, 0.5 / rivals) if rivals else 1.0
    return Counter({str(level): len(some) for level, some in begins.items()}), kept


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0
