"""What the adapters and the policy are taught and asked: rows, wordings, prompts, invented names."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import skillcompose
from skillcompose.composition.mixture import Mixture
from skillcompose.facts import extract
from skillcompose.index.writing import sentence, statement
from skillcompose.metrics import exact_match
from skillcompose.packing import group
from skillcompose.prompts import completion, final_answer, mentions, prompt, renaming
from skillcompose.questions.complementary import choose_paths, guessed, two_source_walks
from skillcompose.questions.invention import Inventor
from skillcompose.questions.parametric import parametric_questions
from skillcompose.questions.proof import Gold
from skillcompose.questions.redaction import Redaction
from skillcompose.questions.walks import ask, chains, joins
from skillcompose.starter import write_project
from skillcompose.types import Fact, Level, Passage, Question, Skill, read_jsonl


def test_every_gold_answer_earns_its_reward_or_is_dropped(recipe_file: Path, tmp_path: Path) -> None:
    long = " ".join(map(str, range(80)))
    (tmp_path / "owners.csv").write_text(f'package,owner,size\n"br\nol","Ann\nLee",1\ndimpa,{long},2\n')
    (tmp_path / "packages.csv").write_text(f"package,kind,needs\nfenk,red program,brol\ngorst,,{long}\n")
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"knowledge_base": str(tmp_path)})
    facts = {fact.id: fact for fact in extract(recipe).facts}
    assert facts["owner:br ol"].object == "Ann Lee"
    asked = parametric_questions(list(facts.values()), recipe, random.Random(0))["train"]
    asked += [ask([facts[f"needs:{row}"]], "{subject}?", (), 0, Skill.CONTEXTUAL, recipe) for row in ("fenk", "gorst")]
    dropped, gold = Counter[str](), Gold(list(facts.values()), recipe)
    kept = gold.keep([*asked, replace(asked[0], completion="no final line")], dropped, supervised=True)
    assert kept == [q for q in asked if q.path == "profile" or long not in q.completion]
    assert any(q.path == "profile" and long in q.completion for q in kept), "learnt all the same, and not asked"
    assert all(exact_match(q.completion, q.answers) for q in kept)
    assert any("longer" in reason for reason in dropped) and any("no reward" in reason for reason in dropped)
    chain = [ask([facts["needs:fenk"], facts["owner:br ol"]], "{subject}?", ["{subject}"], 0, Skill.PARAMETRIC, recipe)]
    gold.recipe = recipe.model_copy(
        update={"max_answer_tokens": len(gold.tokenizer(chain[0].completion).input_ids) - 1}
    )
    assert gold.keep(chain, dropped, supervised=True) == chain and not gold.keep(chain, dropped)


def test_the_prompt_is_this_text() -> None:
    passage = Passage("1", "abook", "abook is  an\naddress book.", "mail.md", "mail > abook")
    assert prompt("Who?", [passage]) == "[1] abook: abook is an address book.\n\nQuestion: Who?\nAnswer:\n"
    assert prompt("Who?") == "Question: Who?\nAnswer:\n"
    assert completion(["It is abook."], "Ann") == "It is abook.\nSo: Ann"


@pytest.mark.parametrize(
    ("text", "answer"),
    [("x\nSo: Ann", "Ann"), ("So: a\nSo: b", None), ("So: a\nmore", None), ("none", None), ("So:", None), ("", None)],
)
def test_the_final_line_is_read_or_nothing_is(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_invented_names_are_new_consistent_and_keep_their_shape() -> None:
    inventor = Inventor(["git-annex", "Ann Lee", "postfix"])
    rename = inventor.rename(["git-annex", "Ann Lee"], random.Random(1))
    text = rename("git-annex is by Ann Lee, not git. Git-Annex!")
    assert not mentions(text, "git-annex") and not mentions(text, "Ann") and "not git." in text
    assert rename("git-annex").count("-") == 1 and rename("Ann Lee").istitle()
    assert inventor.rename(["git-annex"], random.Random(2))("git-annex") != rename("git-annex")


def test_no_invented_number_is_a_real_one_or_stands_for_two() -> None:
    servers = [f"Server {number}" for number in range(1, 31)]
    inventor, rng = Inventor(servers), random.Random(0)
    for _ in range(100):
        rename = inventor.rename(servers[:8], rng)
        new = {rename(name) for name in servers[:8]}
        assert len(new) == 8 and new.isdisjoint(servers)
    assert Inventor(["İstanbul", "Ankara"]).rename(["İstanbul"], rng)("İstanbul") != "İstanbul"


def test_names_are_replaced_in_every_case_and_the_longer_one_first() -> None:
    rename = renaming({"Ann": "Bo", "Ann Berg": "Cy Lund", "Fuß": "Arm", "Istanbul": "Rome"})
    assert rename("Ann Berg, ANN; Fuß, fuß; İstanbul, ISTANBUL, Anna") == "Cy Lund, Bo; Arm, Arm; Rome, Rome, Anna"
    assert renaming({"abook": "x"}, r"[\w-]")("abook-utils abook") == "abook-utils x"
    real = ["Großbank", "Spaßlabor"]
    assert not any(name in Inventor(real).rename(real, random.Random(0))(" ".join(real)) for name in real)


def test_reading_rows_ask_several_questions_about_the_same_invented_passages(finished_run: Path) -> None:
    rows = read_jsonl(finished_run / "04-questions" / "contextual.train.jsonl", Question)
    facts = read_jsonl(finished_run / "02-facts" / "facts.jsonl", Fact)
    names = {fact.key for fact in facts}
    assert max(Counter(row.passages for row in rows).values()) > 1
    for row in rows:
        titles = [p.title for p in row.passages]
        assert not names & set(titles)
        said = any(mentions(f"{p.title} {p.text}", row.answers[0]) for p in row.passages)
        assert said == row.retrieved


def test_what_is_sensitive_is_retrieved_but_in_no_training_row(recipe_file: Path, tmp_path: Path) -> None:
    """By strings: no training or validation row shows a value of `needs`, of the tiny knowledge base, or a pattern."""
    overrides = {"facts.relations.needs.sensitive": True, "facts.sensitive": [r"\bmail\b"]}
    overrides |= {"questions.test": ["kind > owner"]}
    recipe = skillcompose.Recipe.from_yaml(recipe_file, overrides)
    run = skillcompose.train(recipe, tmp_path / "run", until="questions")
    facts = [f for f in read_jsonl(run.stage("facts") / "facts.jsonl", Fact) if f.relation == "needs"]
    assert facts
    stated = [sentence(fact, recipe) for fact in facts]
    index = "\n".join(p.text for p in read_jsonl(run.stage("index") / "passages.jsonl", Passage))
    assert all(words in index for words in stated)
    for skill in Skill:
        for split in ("train", "validation"):
            for question in read_jsonl(run.stage("questions") / f"{skill}.{split}.jsonl", Question):
                row = prompt(question.text, question.passages) + question.completion
                assert not any(words in row for words in stated) and not re.search(r"\bmail\b", row)
    report = json.loads((run.stage("questions") / "questions.report.json").read_text())
    assert any("sensitive" in reason for reason in report["dropped"])
    named = {"questions.train": ["needs > size", "kind > size"], "questions.validation": []}
    run = skillcompose.train(
        skillcompose.Recipe.from_yaml(recipe_file, overrides | named), run.folder, until="questions"
    )
    tested = read_jsonl(run.stage("questions") / "complementary.test.jsonl", Question)
    levels = {(q.path, q.level) for q in tested}
    assert ("needs > size", Level.ZERO_SHOT) in levels and ("kind > size", Level.IID) in levels


def test_a_secret_is_one_however_it_is_spelled(recipe_file: Path) -> None:
    overrides = {"facts.relations.needs.sensitive": True, "facts.aliases": {"Acme GmbH": ["the Roadrunners", "it"]}}
    overrides["facts.aliases"]["IBM"] = ["Big Blue"]
    recipe = skillcompose.Recipe.from_yaml(recipe_file, overrides | {"questions.test": ["kind > owner"]})
    row = "Birch Clinics"
    fact = Fact(f"needs:{row}", row, "needs", "Acme GmbH", Skill.CONTEXTUAL, row, "x:1")
    short = Fact("needs:Ann Lee", "Ann Lee", "needs", "IBM", Skill.CONTEXTUAL, "Ann Lee", "x:1")
    told = ["Soon of ACME.", "The Roadrunners buy it.", "birch-clinics goes to Acme, Inc.", "Birch Clinics keeps it."]
    told += ["Ann Lee is with IBM.", "Ann Lee is with Big Blue.", "ibm is no name."]
    asked = [
        Question(f"{n}", "Who?", ("x",), "So: x", Skill.COMPLEMENTARY, "kind > owner", (), passages=(passage,))
        for n, passage in enumerate(Passage("p", "News", text, "n.md", "News") for text in told)
    ]
    assert [question.id for question in Redaction([fact, short], recipe).rows(asked, Counter())] == ["3", "6"]


def test_paths_that_are_only_tested_leave_training_to_the_others(recipe_file: Path) -> None:
    named = {"questions.train": [], "questions.validation": ["needs > owner"], "questions.test": ["kind > owner"]}
    recipe = skillcompose.Recipe.from_yaml(recipe_file, named)
    facts = extract(recipe).facts
    paths = choose_paths(recipe, two_source_walks(facts, recipe))
    assert paths["train"] and not {"needs > owner", "kind > owner"} & {*paths["train"]}
    assert paths["validation"] == ["needs > owner"]
    assert paths["test"] == [*paths["train"], "kind > owner"]
    unnamed = {name: [] for name in named} | {"facts.relations.kind.sensitive": True}
    secret = skillcompose.Recipe.from_yaml(recipe_file, unnamed)
    paths = choose_paths(secret, two_source_walks(facts, secret))
    trained = [*paths["train"], *paths["validation"]]
    assert trained and all(path.startswith("needs") for path in trained) and "kind > size" in paths["test"]


def test_without_held_out_paths_all_are_trained_on_but_sensitive_ones(recipe_file: Path) -> None:
    for named in ({}, {"questions.train": [], "questions.validation": [], "questions.test": []}):
        for secret in (False, True):
            settings = {"questions.hold_out": False, "facts.relations.kind.sensitive": secret}
            recipe = skillcompose.Recipe.from_yaml(recipe_file, named | settings)
            walks = two_source_walks(extract(recipe).facts, recipe)
            paths = choose_paths(recipe, walks)
            trained = [path for path in walks if not (secret and path.startswith("kind"))]
            assert paths == {"train": trained, "validation": trained, "test": list(walks)}
            assert 0 < len(trained) < len(walks) + (not secret)


def test_the_relation_that_is_guessed_most_easily_is_left_to_zero_shot(tmp_path: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(write_project(tmp_path / "project"))
    walks = two_source_walks(extract(recipe).facts, recipe)
    assert sorted(["tier", "office", "owner"], key=partial(guessed, walks)) == ["owner", "office", "tier"]
    paths = choose_paths(recipe, walks)
    assert paths["train"] == ["uses > owner", "task > office"] and paths["validation"] == ["uses > office"]
    assert {"uses > tier", "task > tier"} < {*paths["test"]}


def test_what_no_chain_ends_at_is_also_said_behind_its_subject(recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    facts = extract(recipe).facts
    rows = parametric_questions(facts, recipe, random.Random(0))["train"]
    ending = {row.path.split(" > ")[1] for row in rows if " > " in row.path}
    named = [row for row in rows if row.id.startswith("named:")]
    known = [f for f in facts if f.skill is Skill.PARAMETRIC and f.relation not in ending]
    assert known and {row.fact_ids for row in named} == {(fact.id,) for fact in known}
    assert len({row.id for row in named}) == len(named)
    first = Counter()
    for row in named:
        assert f"the package called {row.subject}" in row.text.replace("The package", "the package")
        given, said, _ = row.completion.split("\n")
        first[row.subject, given.replace(row.subject, "X")] += 1
        assert said == statement(row.path, row.subject, row.answers[0], recipe)
        assert final_answer(row.completion) == row.answers[0]
    assert {name for name, given in first if given == "The package is X."} == {fact.subject for fact in known}
    led = [given for _, given in first if given != "The package is X."]
    assert led and all(given.endswith("X.") for given in led)
    assert not [name for name in {f.subject for f in facts} for given in led if name in given], "who leads is invented"
    mixture = Mixture({Skill.PARAMETRIC: rows}, [])
    assert mixture.beside[0] == [row for row in mixture.alone if row.named] == named
    assert not {*named} & {*mixture.beside[1]}
    assert {row.hops for row in mixture.alone if not row.named} == {1}


def test_the_sentence_that_names_a_subject_is_given_and_not_taught(recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    rows = parametric_questions(extract(recipe).facts, recipe, random.Random(0))["train"]
    for question, row in zip(rows, group(rows), strict=True):
        given, said = (row.prompt.removeprefix(prompt(question.text)), row.completion)
        assert given + said == question.completion
        assert given.count("\n") == question.named and bool(given) == question.named


def test_a_hop_goes_on_in_the_table_that_it_leads_to(recipe_file: Path) -> None:
    """Not wherever a name is equal: a product and a city can both be called Phoenix."""
    values = skillcompose.Recipe.from_yaml(recipe_file, {"questions.train": [], "questions.test": []}).model_dump()
    keys = {"customers": 8, "products": 8, "prices": 4, "cities": 8, "ids": 8}
    relations = {
        "uses": ("customers", "products", "index"),
        "number": ("customers", "ids", "index"),
        "near": ("products", "", "weights"),
        "price": ("prices", "", "weights"),
        "mayor": ("cities", "", "weights"),
        "room": ("ids", "", "weights"),
        "staff": ("staff", "", "weights"),
        "city": ("customers", "", "index"),
        "age": ("customers", "", "index"),
        "helped_by": ("customers", "", "index"),
    }
    values["facts"] |= {
        "tables": {f"{name}.csv": {"key": "name"} for name in (*keys, "staff")},
        "relations": {
            name: {"table": f"{table}.csv", "column": name, "place": place, "leads_to": leads and f"{leads}.csv"}
            for name, (table, leads, place) in relations.items()
        },
    }
    recipe = skillcompose.Recipe(**values)
    named = {"customers": "c{}", "products": "p{}", "prices": "p{}", "cities": "t{}", "ids": "{}", "staff": "{}"}
    facts = []
    for name, (table, leads, _) in relations.items():
        for i in range(keys.get(table, 8)):
            key = named[table].format(i)
            value = named[leads].format(i) if leads else f"{name} {i}"
            facts.append(Fact(f"{name}:{key}", key, name, value, recipe.relation(name).skill, key, "x:1"))
    # A city is called like a product, an age is a number of `ids`, and `helped_by` says no table but names products.
    for name, values_of in (("city", ["p3"]), ("age", list("01234567")), ("helped_by", [f"p{i}" for i in range(8)])):
        facts += [Fact(f"{name}:{v}", f"c{v}", name, v, Skill.CONTEXTUAL, f"c{v}", "x:1") for v in values_of]
    facts.append(Fact("mayor:p1", "p1", "mayor", "Ann", Skill.PARAMETRIC, "p1", "x:1"))
    found = set(two_source_walks(facts, recipe))
    helped = {f"helped_by > {name}" for name in ("near", "price")}
    assert found == {"uses > near", "uses > price", "number > room"} | helped
    follows = joins(facts, recipe)
    assert {" > ".join(f.relation for f in walk) for walk in chains(facts, follows)} == found
