"""Questions for the test only, each kind reported on its own: known facts asked the other way round, and atomic
questions reworded by rule. No training row looks like them."""

import random
from collections import Counter
from dataclasses import replace

from skillcompose.english import general, row_noun
from skillcompose.facts import with_one_answer
from skillcompose.index.writing import statement
from skillcompose.prompts import completion, normalise
from skillcompose.recipe import Recipe
from skillcompose.types import Fact, Question, Skill

REVERSED, REWORDED = "reversed", "reworded"
PROBES = {REVERSED: "known facts, asked the other way round", REWORDED: "atomic questions, reworded by rule"}
REWORDINGS = (
    "{lower}",
    "Quick question: {text}",
    "{text} Please answer briefly.",
    "Hello! {text} Thanks.",
    "A colleague wants an answer to this: {text}",
)
"""`lower` begins with a small letter and has no mark at its end, as it is typed into a search box."""


def reversed_probes(facts: list[Fact], recipe: Recipe, count: int, rng: random.Random) -> list[Question]:
    """ "Which package has the maintainer Ann Lee?" where Ann Lee maintains one package. Not of columns that the weights
    learn in both directions."""
    relations = recipe.facts.relations
    both = {(r.table, r.column) for r in relations.values() if r.reversed}
    known = [fact for fact in with_one_answer(facts) if fact.skill is Skill.PARAMETRIC]
    holders = Counter((fact.relation, normalise(fact.object)) for fact in known)
    probes = []
    for fact in known:
        relation = relations[fact.relation]
        if (relation.table, relation.column) in both or holders[fact.relation, normalise(fact.object)] > 1:
            continue
        noun = row_noun(relation.table, recipe.facts.tables[relation.table].key)
        wordings = general(fact.relation, noun, backwards=True).questions
        stated = statement(fact.relation, fact.subject, fact.object, recipe)
        probes.append(
            Question(
                f"{REVERSED}:{fact.id}",
                rng.choice(wordings).format(subject=fact.object),
                (fact.subject,),
                completion([stated], fact.subject),
                Skill.PARAMETRIC,
                fact.relation,
                (fact.id,),
                subject=fact.object,
            )
        )
    return rng.sample(probes, min(count, len(probes)))


def reworded(questions: list[Question], count: int, rng: random.Random) -> list[Question]:
    """The same questions, answers and passages in other words."""
    probes = []
    for number, question in enumerate(rng.sample(questions, min(count, len(questions)))):
        text = question.text
        lower = text[0].lower() + text[1:].rstrip("?.")
        wording = REWORDINGS[number % len(REWORDINGS)]
        said = wording.format(text=text, lower=lower)
        probes.append(replace(question, id=f"{REWORDED}:{question.id}", text=said))
    return probes
