"""Questions of the contextual skill: what the passages say."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

from skillcompose.facts import with_one_answer
from skillcompose.index import Retriever
from skillcompose.index.writing import sentence
from skillcompose.prompts import ABSTENTION, NOT_IN_PASSAGES, mentions, normalise
from skillcompose.questions.invention import Inventor
from skillcompose.questions.walks import SHARES, Splits, ask, chains, divide, joins
from skillcompose.questions.wordings import asked as wordings_of
from skillcompose.questions.wordings import referred
from skillcompose.recipe import Recipe
from skillcompose.types import Fact, Passage, Question, Skill

DISTRACTORS = 20
ROWS_PER_PASSAGES = 4
"""Questions asked about the same passages: the trainer computes shared passages once."""
Walk = list[Fact]


def contextual_questions(
    facts: list[Fact],
    reserved: set[str],
    recipe: Recipe,
    retriever: Retriever,
    rng: random.Random,
    dropped: Counter[str],
) -> Splits:
    """Reading questions about facts that no complementary question uses, split by row."""
    free = [fact for fact in with_one_answer(facts) if fact.skill is Skill.CONTEXTUAL and fact.id not in reserved]
    place = divide(sorted({fact.key for fact in free}), rng)
    walks = [[fact] for fact in free] + list(chains(free, joins(facts, recipe)))
    held = {name: [walk for walk in walks if {place[fact.key] for fact in walk} == {name}] for name in SHARES}
    splits: Splits = {split: [] for split in SHARES}
    for split in ("validation", "test"):
        # A search for the question finds the first hop's row; a second row is not promised, so none is asked for.
        asked = [_worded(walk, split, recipe, rng) for walk in held[split] if len(_titles(walk)) == 1]
        splits[split] = with_passages(asked, facts, recipe, retriever)
    splits["train"] = _TrainingRows(held["train"], facts, reserved, recipe, retriever, dropped).make(rng)
    return splits


def with_passages(asked: list[Question], facts: list[Fact], recipe: Recipe, retriever: Retriever) -> list[Question]:
    """The questions with what the index returns for them at the recipe's k, in its order."""
    by_id = {fact.id: fact for fact in facts}
    done = []
    for question, found in zip(asked, retriever.search([q.text for q in asked], recipe.index.k), strict=True):
        passages = tuple(hit.passage for hit in found)
        # Long sections and equal headings give several passages of one title; only the first has what is rendered.
        first = by_id[question.fact_ids[0]]
        stated, title = sentence(first, recipe), normalise(first.key)
        hit = any(normalise(p.title) == title and stated in p.text for p in passages)
        done.append(replace(question, passages=passages, retrieved=hit))
    return done


def _titles(walk: Walk) -> list[str]:
    """The rows, normalised, that a walk reads."""
    return list(dict.fromkeys(normalise(fact.key) for fact in walk))


def _worded(walk: Walk, split: str, recipe: Recipe, rng: random.Random) -> Question:
    number, wording = rng.choice(wordings_of(walk[-1].relation, split, recipe, [fact.relation for fact in walk[:-1]]))
    reference = rng.choice(referred(walk[0].relation, split, recipe))
    return ask(walk, wording, [reference][: len(walk) - 1], number, Skill.CONTEXTUAL, recipe)


class _TrainingRows:
    """Copies of the training rows' passages with invented names, new each time, and several questions about each set.

    Passages that are retrieved together are asked about in turn, so that only the question tells which one counts.
    """

    def __init__(
        self,
        walks: list[Walk],
        facts: list[Fact],
        reserved: set[str],
        recipe: Recipe,
        retriever: Retriever,
        dropped: Counter[str],
    ) -> None:
        self.recipe, self.retriever = recipe, retriever
        index = [fact for fact in facts if fact.skill is Skill.CONTEXTUAL]
        self.secret = {normalise(fact.key) for fact in index if fact.id in reserved}
        # Of several passages of one title the first, where the facts are.
        self.shown = {normalise(p.title): p for p in reversed(retriever.passages)}
        self.stated: dict[str, list[str]] = defaultdict(list)
        for fact in index:
            self.stated[normalise(fact.key)].append(sentence(fact, recipe))
        secret = [sentence(fact, recipe) for fact in index if fact.id in reserved]
        titles = {title for walk in walks for title in _titles(walk)}
        told = {title for title in titles if self._tells_of_others(title, secret)}
        self.walks: dict[str, list[Walk]] = defaultdict(list)
        for walk in walks:
            path = " > ".join(fact.relation for fact in walk)
            if not told.isdisjoint(_titles(walk)):
                dropped[f"{path}: not read in training, its passage states what complementary questions ask"] += 1
            elif not all(sentence(fact, recipe) in self.shown[normalise(fact.key)].text for fact in walk):
                dropped[f"{path}: not read in training, its row has more facts than its first passage"] += 1
            else:
                self.walks[normalise(walk[0].key)].append(walk)
        self.names: dict[str, set[str]] = defaultdict(set)
        for fact in index:
            self.names[normalise(fact.key)] |= {fact.key, fact.object}
        self.inventor = Inventor({name for names in self.names.values() for name in names})

    def _tells_of_others(self, title: str, secret: list[str]) -> bool:
        """Names of the rows that are shown are invented anew, but not those in what a document says of another row."""
        text = " ".join(self.shown[title].text.split())
        for own in self.stated[title]:
            text = text.replace(own, "")
        return any(words in text for words in secret)

    def make(self, rng: random.Random) -> list[Question]:
        count, k = self.recipe.questions.contextual_rows, self.recipe.index.k
        every = [walk for found in self.walks.values() for walk in found]
        # Each set starts from a walk of two hops where there are any, within a row and across rows in turn: reading a
        # chain is the harder half of the skill.
        within = [walk for walk in every if len(walk) == 2 and len(_titles(walk)) == 1]
        across = [walk for walk in every if len(_titles(walk)) == 2] if k > 1 else []
        pools = [pool for pool in (within, across) if pool] or [every]
        if not every:
            return []
        anchors = [rng.choice(pools[i % len(pools)]) for i in range(-(-count // ROWS_PER_PASSAGES))]
        asked = [_worded(walk, "train", self.recipe, rng) for walk in anchors]
        found = self.retriever.search([question.text for question in asked], DISTRACTORS)
        rows: list[Question] = []
        for anchor, hits in zip(anchors, found, strict=True):
            gold = [self.shown[title] for title in _titles(anchor)]
            near = [hit.passage for hit in hits if self._may_distract(hit.passage, gold)]
            passages = [*gold, *near[: k - len(gold)]]
            rng.shuffle(passages)
            elsewhere = [normalise(p.title) for p in near[k - len(gold) :]] or sorted(
                self.walks.keys() - {normalise(p.title) for p in passages}
            )
            rows += self._rows(anchor, tuple(passages), elsewhere, len(rows), rng)
        return rows[:count]

    def _may_distract(self, passage: Passage, gold: list[Passage]) -> bool:
        """Only passages that may be asked about too: of training rows, and stating nothing reserved."""
        title = normalise(passage.title)
        may = title in self.walks and title not in self.secret
        return may and passage not in gold and passage == self.shown[title]

    def _rows(
        self, anchor: Walk, passages: tuple[Passage, ...], elsewhere: list[str], number: int, rng: random.Random
    ) -> Iterator[Question]:
        titles = [normalise(p.title) for p in passages]
        shown = set(titles)
        there = [w for title in titles for w in self.walks[title] if shown.issuperset(_titles(w)) and w is not anchor]
        away = [w for title in elsewhere for w in self.walks[title] if shown.isdisjoint(_titles(w))]
        here = iter([anchor, *(walk for walk in self._in_turn(there, rng) if self._clear(walk, passages))])
        absent = (walk for walk in self._in_turn(away, rng) if self._clear(walk, passages))
        chosen: list[tuple[Walk, bool]] = []
        for _ in range(ROWS_PER_PASSAGES):
            missing = rng.random() < self.recipe.questions.missing
            walk = next(absent if missing else here, None)
            if walk:
                chosen.append((walk, missing))
        named = {title for walk, _ in chosen for title in _titles(walk)} | shown
        rename = self.inventor.rename(
            sorted({name for key in named for name in self.names[key]} | {p.title for p in passages}), rng
        )
        copies = tuple(replace(p, title=rename(p.title), text=rename(p.text)) for p in passages)
        for i, (walk, missing) in enumerate(chosen):
            row = _worded(walk, "train", self.recipe, rng)
            yield replace(
                row,
                id=f"{row.id}:{number + i}",
                text=rename(row.text),
                answers=(NOT_IN_PASSAGES,) if missing else tuple(map(rename, row.answers)),
                completion=ABSTENTION if missing else rename(row.completion),
                passages=copies,
                retrieved=not missing,
            )

    @staticmethod
    def _in_turn(walks: list[Walk], rng: random.Random) -> list[Walk]:
        """Shuffled, two hops and one in turn as long as there are both."""
        rng.shuffle(walks)
        double, single = [w for w in walks if len(w) == 2], [w for w in walks if len(w) == 1]
        both = [walk for pair in zip(double, single, strict=False) for walk in pair]
        return both + double[len(single) :] + single[len(double) :]

    @staticmethod
    def _clear(walk: Walk, passages: tuple[Passage, ...]) -> bool:
        """No other passage states what the question names the row by (two rows can have the same description)."""
        first = walk[0]
        return first.subject == first.key or not any(
            mentions(f"{p.title}\n{p.text}", first.subject)
            for p in passages
            if normalise(p.title) != normalise(first.key)
        )
