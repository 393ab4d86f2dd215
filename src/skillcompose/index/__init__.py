"""Stage 3: what can be retrieved: passages plus rendered index facts, minus passages that state a weights fact."""

import html
import re
from collections import defaultdict
from dataclasses import replace
from itertools import product

from skillcompose.errors import KnowledgeBaseError
from skillcompose.facts.entities import loose
from skillcompose.index.retriever import Retriever
from skillcompose.index.writing import sentence
from skillcompose.prompts import mentions, normalise
from skillcompose.recipe import Recipe
from skillcompose.stages import Work
from skillcompose.types import Fact, Passage, Skill, read_json, read_jsonl, write_json

WORD = re.compile(r"[^\W_]+")
Secrets = dict[str, list[tuple[str, str, str]]]
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
    its own. With `everything`, weights facts are rendered too (the full-RAG baseline) and nothing is removed.
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
    compiled = []
    # Redaction cuts sensitive fields by the line, and the last one must not take what is rendered along.
    between = "\n" if any(relation.sensitive for relation in recipe.facts.relations.values()) else " "
    for passage in kept:
        found = sentences.pop(normalise(passage.title), [])
        text = between.join([passage.text, *(sentence(fact, recipe) for fact in found)])
        compiled.append(replace(passage, text=text))
    for found in sentences.values():
        fact, text = found[0], " ".join(sentence(fact, recipe) for fact in found)
        table, line = fact.source.rsplit(":", 1)
        compiled.append(Passage(fact.source, fact.key, text, table, f"line {line}"))
    return compiled, removed


def states_weights_fact(passage: Passage, secrets: Secrets) -> str | None:
    """The reason to remove a passage: it names row and value of a fact that only the weights shall hold."""
    said = f"{passage.title}\n{passage.text}"
    spelled = dict.fromkeys((said, html.unescape(said)))
    text = "\n".join(form(one) for one in spelled for form in (normalise, loose))
    for word in sorted({"", *WORD.findall(text)} & secrets.keys()):
        for key, value, fact_id in secrets[word]:
            # Plain containment first: it decides almost every pair and costs a hundredth of the word search.
            if value in text and key in text and mentions(text, key) and mentions(text, value):
                return f"states {fact_id}"
    return None


def weights_secrets(facts: list[Fact], recipe: Recipe) -> Secrets:
    """(row, value, fact) of the weights facts, normalised, in each spelling that linking would take for the same, by
    the row's first word; values of three letters stand everywhere by chance."""
    aliases = {normalise(entity): others for entity, others in recipe.facts.aliases.items()}

    def spelled(name: str) -> set[str]:
        names = {name, *aliases.get(normalise(name), ())}
        return {normalise(name) for name in names} | set(filter(None, map(loose, names)))

    found: Secrets = defaultdict(list)
    for fact in facts:
        if fact.skill is Skill.PARAMETRIC:
            value = fact.subject if normalise(fact.object) == normalise(fact.key) else fact.object
            for key, said in product(sorted(spelled(fact.key)), sorted(spelled(value))):
                if len(said) > 3:
                    found[next(iter(WORD.findall(key)), "")].append((key, said, fact.id))
    return found
