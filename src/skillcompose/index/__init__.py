"""Stage 3: what can be retrieved: passages plus rendered index facts, minus passages that state a weights fact."""

import html
import re
from collections import defaultdict
from dataclasses import replace

from skillcompose.errors import KnowledgeBaseError
from skillcompose.facts import with_one_answer
from skillcompose.facts.entities import spelled, spellings
from skillcompose.index.retriever import Retriever
from skillcompose.index.writing import sentence
from skillcompose.prompts import SHORT, mentions, normalise, says
from skillcompose.recipe import Recipe
from skillcompose.stages import Work
from skillcompose.types import Fact, Passage, Skill, read_json, read_jsonl, write_json

WORD = re.compile(r"[^\W_]+")
SENTENCES = 20  # of a row in one passage: the embedder reads no more
Secrets = dict[str, list[tuple[str, str, str, str]]]
__all__ = ["Retriever", "compile_passages", "run"]


def run(work: Work) -> None:
    passages = read_jsonl(work.read("passages") / "passages.jsonl", Passage)
    # A heading that spells a row otherwise gets the row's name: facts and passages meet by it.
    spellings = read_json(work.read("facts") / "entities.json")
    passages = [replace(p, title=spellings.get(normalise(p.title), p.title)) for p in passages]
    facts = read_jsonl(work.read("facts") / "facts.jsonl", Fact)
    compiled, removed = compile_passages(passages, facts, work.recipe)
    if not compiled:
        raise KnowledgeBaseError("nothing to retrieve: place a relation in the index, or add documents")
    beside = work.recipe.beside
    Retriever.build(compiled, work.recipe.index, beside, work.progress).save(work.folder)
    write_json(work.folder / "index.report.json", {"passages": len(compiled), "removed": removed})


def compile_passages(
    passages: list[Passage], facts: list[Fact], recipe: Recipe, everything: bool = False
) -> tuple[list[Passage], dict[str, str]]:
    """The passages of the index, and those removed with the reason.

    A rendered fact goes into the passage whose title is its row's key; a row without a document gets a passage of
    its own, one with many facts several. With `everything`, weights facts are rendered too (the full-RAG baseline) and
    nothing is removed.
    """
    kept, removed = list(passages), {}
    if not everything:
        secrets = weights_secrets(facts, recipe)
        for passage in passages:
            reason = states_weights_fact(passage, secrets)
            if reason:
                removed[passage.id] = reason
        kept = [passage for passage in passages if passage.id not in removed]
    sentences: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        if everything or fact.skill is Skill.CONTEXTUAL:
            sentences[normalise(fact.key)].append(fact)
    asked = {fact.id for fact in with_one_answer(facts)}
    rows = {title: _parts(found, asked) for title, found in sentences.items()}
    compiled: list[Passage] = []
    # Redaction cuts sensitive fields by the line, and the last one must not take what is rendered along.
    between = "\n" if any(relation.sensitive for relation in recipe.facts.relations.values()) else " "
    for passage in kept:
        shown, *more = rows.pop(normalise(passage.title), [[]])
        text = between.join([passage.text, *(sentence(fact, recipe) for fact in shown)])
        compiled.append(replace(passage, text=text))
        compiled += (_row(part, number, recipe) for number, part in enumerate(more, 1))
    for parts in rows.values():
        compiled += (_row(part, number, recipe) for number, part in enumerate(parts))
    return compiled, removed


def _parts(facts: list[Fact], asked: set[str]) -> list[list[Fact]]:
    """A row's facts by passage; where there are several, what is asked for comes first."""
    if len(facts) > SENTENCES:
        facts = sorted(facts, key=lambda fact: fact.id not in asked)
    return [facts[i : i + SENTENCES] for i in range(0, len(facts), SENTENCES)]


def _row(facts: list[Fact], number: int, recipe: Recipe) -> Passage:
    source = facts[0].source
    table, line = source.rsplit(":", 1)
    text = " ".join(sentence(fact, recipe) for fact in facts)
    return Passage(f"{source}#{number}" if number else source, facts[0].key, text, table, f"line {line}")


def states_weights_fact(passage: Passage, secrets: Secrets) -> str | None:
    """The reason to remove a passage: it names row and value of a fact that only the weights shall hold."""
    # "Falcon > Ownership": the row may stand above the heading.
    said = f"{passage.position}\n{passage.title}\n{passage.text}"
    said = "\n".join(dict.fromkeys((said, html.unescape(said))))
    text = spelled(said)
    for word in sorted({"", *WORD.findall(text)} & secrets.keys()):
        for key, value, short, fact_id in secrets[word]:
            # Plain containment first: it decides almost every pair and costs a hundredth of the word search.
            there = value in text and key in text and mentions(text, key)
            if there and (says(said, short) if short else mentions(text, value)):
                return f"states {fact_id}"
    return None


def weights_secrets(facts: list[Fact], recipe: Recipe) -> Secrets:
    """(row, value, how a short value is written, fact) of the weights facts, in each spelling that linking would take
    for the same, by the row's first word. Short values count where they are written like names: Bo, EU, P1."""
    aliases = {normalise(name): others for name, others in recipe.facts.aliases.items()}
    found: Secrets = defaultdict(list)
    for fact in facts:
        if fact.skill is Skill.PARAMETRIC:
            value = fact.subject if normalise(fact.object) == normalise(fact.key) else fact.object
            values = [(said, "") for said in sorted(spellings(value, aliases)) if len(said) > SHORT]
            named = 1 < len(value) <= SHORT and value[0].isupper() and value not in ("No", "Yes")
            if named and not says(fact.key, value):  # every mention of "UK Office" says UK
                values.append((normalise(value), value))
            for key in sorted(spellings(fact.key, aliases)):
                first = next(iter(WORD.findall(key)), "")
                found[first] += [(key, said, short, fact.id) for said, short in values]
    return found
