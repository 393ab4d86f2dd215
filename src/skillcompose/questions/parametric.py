"""Questions of the parametric skill: what the weights know, asked without passages."""

import random
from collections import defaultdict
from dataclasses import replace

from skillcompose.english import row_noun
from skillcompose.index.writing import statement
from skillcompose.prompts import completion, normalise
from skillcompose.questions.invention import Inventor
from skillcompose.questions.walks import SHARES, Joins, Splits, ask, chains, divide, joins
from skillcompose.questions.wordings import asked, referred
from skillcompose.recipe import Recipe
from skillcompose.types import Fact, Question, Skill

CHAIN_WORDINGS = 3


def parametric_questions(facts: list[Fact], recipe: Recipe, rng: random.Random) -> Splits:
    """Every weights fact in some training wordings, and chains: whole subjects are held out of chain training."""
    known = [fact for fact in facts if fact.skill is Skill.PARAMETRIC]
    splits: Splits = {split: [] for split in SHARES}
    for fact in known:
        for split in splits:
            wordings = asked(fact.relation, split, recipe)
            for number, wording in rng.sample(wordings, min(recipe.questions.wordings, len(wordings))):
                splits[split].append(ask([fact], wording, (), number, Skill.PARAMETRIC, recipe))
    splits["train"] += _profiles(known, recipe, rng)
    follows = joins(facts, recipe)
    walks = list(chains(known, follows))
    _add_chains(splits, walks, recipe, rng)
    ending = {walk[1].relation for walk in walks}
    unended = [fact for fact in known if fact.relation not in ending]
    splits["train"] += _named(unended, [fact for fact in facts if fact.skill is Skill.CONTEXTUAL], follows, recipe, rng)
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
                    subject=subject,
                )
            )
    return rows


def _named(unended: list[Fact], read: list[Fact], follows: Joins, recipe: Recipe, rng: random.Random) -> list[Question]:
    """Facts that no chain ends at, behind their subject: "The package is brz.", then what is known of brz; and behind a
    sentence of the passages that leads there, about an invented name: "wanomin depends on brz."

    Composing, what the passages lead to stands first. A relation that was never said behind it is not said then: in
    the demo "The package is brz." went on with the version, and none of 20 questions about hosts was answered. For
    consolidation and all that follows it, not for the adapter; the first sentence is given there, not taught.
    """
    subjects: dict[str, list[str]] = defaultdict(list)
    for fact in read:
        subjects[fact.relation].append(fact.subject)
    inventor = Inventor({fact.subject for fact in [*unended, *read]})
    rows: list[Question] = []
    for fact in unended:
        relation = recipe.relation(fact.relation)
        if relation.reversed:
            continue
        noun = row_noun(relation.table, recipe.facts.tables[relation.table].key)
        first = [f"The {noun} is {fact.subject}."]
        if leading := [name for name in subjects if follows(name, fact.relation)]:
            lead = rng.choice(leading)
            name = rng.choice(subjects[lead])
            invented = inventor.rename([name], rng)(name)
            first.append(statement(lead, invented, fact.subject, recipe))
        for sentence in dict.fromkeys(first):
            number, wording = rng.choice(asked(fact.relation, "train", recipe))
            row = ask([fact], wording, [f"the {noun} called {{subject}}"], number, Skill.PARAMETRIC, recipe)
            said = completion([sentence, statement(fact.relation, fact.subject, fact.object, recipe)], fact.object)
            # A bridge of one fact is what marks such a row (`Question.named`).
            rows.append(replace(row, id=f"named:{row.id}:{len(rows)}", completion=said, bridges=(fact.subject,)))
    return rows


def _add_chains(splits: Splits, walks: list[list[Fact]], recipe: Recipe, rng: random.Random) -> None:
    place = divide(sorted({normalise(walk[0].object) for walk in walks}), rng)
    for walk in walks:
        split = place[normalise(walk[0].object)]
        wordings = asked(walk[1].relation, split, recipe, [walk[0].relation])
        names = referred(walk[0].relation, split, recipe)
        for number, wording in rng.sample(wordings, min(CHAIN_WORDINGS, len(wordings))):
            splits[split].append(ask(walk, wording, [rng.choice(names)], number, Skill.PARAMETRIC, recipe))
