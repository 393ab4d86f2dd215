"""Names that mean the same row, several values in one cell, and documents and tables joined."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import skillcompose
from skillcompose.errors import RecipeError
from skillcompose.facts import extract, with_one_answer
from skillcompose.facts.entities import Entities, loose
from skillcompose.index import SENTENCES, compile_passages
from skillcompose.index.writing import sentence
from skillcompose.prompts import mentions
from skillcompose.starter import write_project
from skillcompose.types import Fact, Passage, Question, Skill, read_json, read_jsonl

PATHS = ("uses > team", "uses > team > lead")
CUSTOMERS = ["Birch Clinics Ltd.", "Oak & Sons", "Señor Pan", "Cedar GmbH"]


def test_spellings_of_a_row_are_linked_and_every_link_has_a_reason() -> None:
    entities = Entities({"customers.csv": CUSTOMERS, "notes.md": ["birch clinics", "Zoo"]}, {"Cedar GmbH": ["CG"]})
    entities.link(["OAK AND SONS", "Senor Pan", "cg", "somebody else"], "calls.csv: customer")
    spelled = ["birch  Clinics", "Oak and Sons", "senor pan", "CG", "Zoo", "somebody else"]
    assert [entities.of(name) for name in spelled] == [*CUSTOMERS, "Zoo", "somebody else"]
    assert {(link["name"], link["why"].split()[0]) for link in entities.links} == {
        ("birch clinics", "differs"),
        ("OAK AND SONS", "differs"),
        ("Senor Pan", "differs"),
        ("cg", "an"),
    }
    assert entities.links[0]["where"] == "key of notes.md"


def test_what_could_be_two_rows_is_linked_to_none_and_short_names_are_what_they_are() -> None:
    entities = Entities({"a.csv": ["Acme Inc", "Acme Ltd", "C", "Elm"]}, {})
    entities.link(["ACME", "C++", "elm,"], "b.csv: firm", certain=True)
    assert entities.of("ACME") == "ACME" and entities.ambiguous == {"ACME": ["Acme Inc", "Acme Ltd"]}
    assert not entities.links and entities.of("C++") == "C++"
    assert loose("C++") == "" and loose("Acme Co., Ltd.") == "acme"


def test_names_that_differ_in_case_alone_are_one_spelling(company: Path, recipe_file: Path) -> None:
    """Bridges are split by their spelling: another one would be trained on and tested as unseen."""
    text = (company / "customers.csv").read_text()
    spelled = text.replace("-SERVICE", " Service").replace("PAYLINE", "payline")
    (company / "customers.csv").write_text(spelled)
    facts = extract(recipe_for(company, recipe_file)).facts
    services = {fact.key for fact in facts if fact.relation == "team"}
    assert {fact.object for fact in facts if fact.relation == "uses"} == services


def test_a_column_that_names_few_rows_is_left_alone() -> None:
    entities = Entities({"a.csv": ["Golf", "Rowing Inc"]}, {})
    entities.link(["rowing", "chess", "tennis", "sailing"], "people.csv: hobby")
    assert not entities.links


@pytest.fixture
def company(tmp_path: Path) -> Path:
    """Services in documents, what they use in one cell, customers in a table that spells services in another way."""
    folder = tmp_path / "company"
    (folder / "services").mkdir(parents=True)
    names = [f"{front}{back} Service" for front in ("Pay", "Led", "Car", "Mail") for back in ("line", "ger", "go")]
    teams = ["red team", "blue team", "green team", "grey team"]
    for i, name in enumerate(names):
        text = f"---\ntitle: {name}\nteam: {teams[i % 4]}\nregions: [north, {i}]\n---\n# About\n\nWhat {name} does.\n"
        (folder / "services" / f"s{i}.md").write_text(text)
    rows = [f"customer {i},{names[i % 12].upper().replace(' ', '-')}" for i in range(30)]
    (folder / "customers.csv").write_text("\n".join(["customer,uses", *rows]) + "\n")
    leads = "".join(f"| {team} | lead {i} |\n" for i, team in enumerate(teams))
    (folder / "teams.md").write_text(f"# Teams\n\n| Team | Lead |\n|---|---|\n{leads}")
    return folder


def recipe_for(
    company: Path, recipe_file: Path, train: tuple[str, ...] = PATHS, **facts: object
) -> skillcompose.Recipe:
    data = yaml.safe_load(recipe_file.read_text())
    data["knowledge_base"] = str(company)
    documents, teams = "services/*.md", "teams.md#Teams"
    data["facts"] = {
        "tables": {
            documents: {"key": "title", "separator": ";"},
            "customers.csv": {"key": "customer"},
            teams: {"key": "Team"},
        },
        "relations": {
            "uses": {"table": "customers.csv", "column": "uses", "place": "index", "leads_to": documents},
            "region": {"table": documents, "column": "regions", "place": "index"},
            "team": {"table": documents, "column": "team", "place": "weights"},
            "lead": {"table": teams, "column": "Lead", "place": "weights"},
        },
    } | facts
    data["questions"] = {"train": list(train), "contextual_rows": 8}
    data["max_answer_tokens"] = 400
    path = company.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return skillcompose.Recipe.from_yaml(path)


def test_documents_and_tables_join_in_questions_of_several_hops(company: Path, recipe_file: Path) -> None:
    recipe = recipe_for(company, recipe_file)
    run = skillcompose.train(recipe, company.parent / "run", until="questions")
    report = read_json(run.stage("facts") / "facts.report.json")
    assert report["links"]["uses"] == "12 of 12 name rows of services/*.md"
    assert report["links"]["team"] == "4 of 4 name rows of teams.md#Teams"
    assert len(report["same row"]) == 12 and report["same row"][0]["where"] == "customers.csv: uses"
    asked = read_jsonl(run.stage("questions") / "complementary.train.jsonl", Question)
    assert {q.path for q in asked} == {"uses > team", "uses > team > lead"}
    assert any("the service that customer" in q.text and q.hops == 2 for q in asked)
    assert any("the team of the service" in q.text and q.answers[0].startswith("lead ") for q in asked)
    facts = read_jsonl(run.stage("facts") / "facts.jsonl", Fact)
    assert {fact.source for fact in facts if fact.relation == "lead"} == {f"teams.md:{line}" for line in range(5, 9)}
    index = "\n".join(p.text for p in read_jsonl(run.stage("index") / "passages.jsonl", Passage))
    assert "team" not in index, "front matter that states what the weights shall know is not retrieved"


def test_rows_of_cut_sections_are_asked_about_the_passage_that_states_their_facts(
    company: Path, recipe_file: Path
) -> None:
    words = [f"word{i}" for i in range(400)]
    for i in range(30):
        (company / f"c{i}.md").write_text(f"# customer {i}\n\n" + " ".join(words[i:] + words[:i]))
    recipe = skillcompose.Recipe.from_yaml(recipe_for(company, recipe_file).source, {"index.k": 1})
    run = skillcompose.train(recipe, company.parent / "run", until="questions")
    facts = {fact.id: fact for fact in read_jsonl(run.stage("facts") / "facts.jsonl", Fact)}
    rows = read_jsonl(run.stage("questions") / "contextual.train.jsonl", Question)
    assert rows and all(any(mentions(p.text, row.answers[0]) for p in row.passages) == row.retrieved for row in rows)
    asked = [
        question
        for split in ("train", "validation", "test")
        for question in read_jsonl(run.stage("questions") / f"complementary.{split}.jsonl", Question)
    ]
    assert {question.retrieved for question in asked} == {True, False}
    for question in asked:
        stated = sentence(facts[question.fact_ids[0]], recipe)
        assert any(stated in p.text for p in question.passages) == question.retrieved


def test_documents_that_state_facts_of_other_rows_are_not_read_in_training(company: Path, recipe_file: Path) -> None:
    facts = [fact for fact in extract(recipe_for(company, recipe_file)).facts if fact.relation == "uses"]
    for i in range(30):
        other = sentence(facts[(i + 1) % 30], recipe_for(company, recipe_file)).replace(" ", "\n")
        (company / f"c{i}.md").write_text(f"# customer {i}\n\nAs others do: {other}\n")
    run = skillcompose.train(recipe_for(company, recipe_file), company.parent / "run", until="questions")
    report = read_json(run.stage("questions") / "questions.report.json")
    assert report["dropped"]["uses: not read in training, its passage states what complementary questions ask"] > 0
    assert report["questions"]["contextual.train"] > 0


def test_several_values_are_retrieved_and_not_asked_for(company: Path, recipe_file: Path) -> None:
    recipe = recipe_for(company, recipe_file)
    facts = extract(recipe).facts
    regions = [fact for fact in facts if fact.relation == "region"]
    assert len(regions) == 24 == len({fact.id for fact in regions})
    assert not any(fact.relation == "region" for fact in with_one_answer(facts))
    run = skillcompose.train(recipe, company.parent / "run", until="questions")
    index = "\n".join(p.text for p in read_jsonl(run.stage("index") / "passages.jsonl", Passage))
    assert "The region of Payline Service is north. The region of Payline Service is 0." in index
    for skill in Skill:
        asked = read_jsonl(run.stage("questions") / f"{skill}.test.jsonl", Question)
        assert not any("region" in q.path for q in asked)
    report = read_json(run.stage("facts") / "facts.report.json")
    assert report["in the index, but one of several answers: not asked for"] == {"region": 24}
    relations = {"team": recipe.facts.relations["team"].model_dump() | {"column": "regions"}}
    dropped = extract(recipe_for(company, recipe_file, (), relations=relations)).dropped
    assert dropped["team: several objects for one subject"] == 24, "the weights learn one answer"


def test_a_rows_number_is_not_taken_for_another_rows_name(tmp_path: Path, recipe_file: Path) -> None:
    folder = tmp_path / "numbers"
    folder.mkdir()
    centers = [f'{number},"{number + 1}, Ltd.",owner {number}' for number in range(1, 61)]
    (folder / "centers.csv").write_text("\n".join(["id,code,owner", *centers]) + "\n")
    (folder / "bills.csv").write_text("bill,center\na,100\nb,101\nc,1;2\nd,n/a\ne,#VALUE!\nN/A,1\n")
    numbered = [row.replace(", Ltd.", "") for row in centers]
    data = yaml.safe_load(recipe_file.read_text())
    data |= {"knowledge_base": str(folder), "questions": {"contextual_rows": 8}}
    data["facts"] = {
        "tables": {"centers.csv": {"key": "code", "id": "id"}, "bills.csv": {"key": "bill", "separator": ";"}},
        "relations": {
            "center": {"table": "bills.csv", "column": "center", "place": "index", "leads_to": "centers.csv"},
            "owner": {"table": "centers.csv", "column": "owner", "place": "weights"},
        },
    }
    path = tmp_path / "numbers.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    found = extract(skillcompose.Recipe.from_yaml(path))
    assert {f.object for f in found.facts if f.relation == "center"} == {"2, Ltd.", "3, Ltd."}
    assert found.dropped["center: no row of centers.csv has such a number"] == 2
    assert found.dropped["center: empty cell"] == 5, "n/a is no value, and no row"
    (folder / "centers.csv").write_text("\n".join(["id,code,owner", *numbered]) + "\n")
    (folder / "bills.csv").write_text("bill,center\nb,2\nc,61\n")
    found = extract(skillcompose.Recipe.from_yaml(path))
    assert [f.object for f in found.facts if f.relation == "center"] == ["3", "61"], "only what is no number is a name"


def test_known_subjects_bring_along_what_their_facts_lead_to(company: Path, recipe_file: Path) -> None:
    facts = extract(recipe_for(company, recipe_file, known=2)).facts
    known = {fact.relation: set[str]() for fact in facts if fact.skill is Skill.PARAMETRIC}
    for fact in facts:
        if fact.skill is Skill.PARAMETRIC:
            known[fact.relation].add(fact.subject)
    assert len(known["team"]) == 2 and known["lead"] == {"red team", "blue team"}


def test_headings_get_their_rows_spelling(company: Path, recipe_file: Path) -> None:
    (company / "notes.md").write_text("# Notes\n\n## PAYLINE (service)\n\nRuns at night.\n\n## CP\n\nBig.\n")
    recipe = recipe_for(company, recipe_file, aliases={"customer 1": ["CP"]})
    run = skillcompose.train(recipe, company.parent / "run", until="index")
    titles = {p.title: p.text for p in read_jsonl(run.stage("index") / "passages.jsonl", Passage)}
    assert "Runs at night." in titles["Payline Service"] and "Big. customer 1 uses" in titles["customer 1"]


def test_no_spelling_of_a_weights_fact_stays_in_the_index(company: Path, recipe_file: Path) -> None:
    recipe = recipe_for(company, recipe_file, aliases={"Payline Service": ["PS"], "red team": ["the Reds"]})
    said = ["PS has the red team.", "PAYLINE-SERVICE: red team", "The Reds own Payline Service.", "PS is old."]
    passages = [Passage(f"{n}", "Notes", text, "n.md", "Notes") for n, text in enumerate(said)]
    removed = compile_passages(passages, extract(recipe).facts, recipe)[1]
    assert removed == dict.fromkeys("012", "states team:Payline Service")


def test_a_weights_fact_is_told_by_a_heading_above_and_by_a_short_name(recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    (fact,) = (f for f in extract(recipe).facts if f.id == "owner:brol")
    facts = [fact, replace(fact, id="owner:fenk", subject="fenk", key="fenk", object="EU")]
    told = [("Owned by Ann Lee.", "brol > Ownership"), ("Team: EU", "fenk"), ("See the queue, eu.", "fenk")]
    passages = [Passage(f"{n}", at.split(" > ")[-1], text, "n.md", at) for n, (text, at) in enumerate(told)]
    removed = compile_passages(passages, facts, recipe)[1]
    assert removed == {"0": "states owner:brol", "1": "states owner:fenk"}


def test_a_row_of_many_facts_is_several_passages_and_what_is_asked_for_comes_first(recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    needs = next(f for f in extract(recipe).facts if f.relation == "needs")
    many = [replace(needs, id=f"needs:{n}", object=f"thing {n}") for n in range(2 * SENTENCES)]
    kind = replace(needs, id="kind:one", relation="kind", subject="the small one", object=needs.key)
    compiled = compile_passages([], [*many, kind], recipe)[0]
    assert [p.title for p in compiled] == [needs.key] * 3 and len({p.id for p in compiled}) == 3
    assert "the small one" in compiled[0].text and all(p.text.count(".") <= SENTENCES for p in compiled)
    assert all(any(f"thing {n}." in p.text for p in compiled) for n in range(2 * SENTENCES))
    beside = Passage("d", needs.key, "Told.", "d.md", needs.key)
    assert [p.id for p in compile_passages([beside], many, recipe)[0]] == ["d", f"{needs.source}#1"]


def test_check_names_what_is_wrong_with_documents_links_and_aliases(company: Path, recipe_file: Path) -> None:
    recipe = recipe_for(company, recipe_file)
    data = yaml.safe_load(recipe.source.read_text())
    data["facts"]["aliases"] = {"customer 1": ["CP"], "customer 2": ["cp"]}
    data["facts"]["relations"]["uses"]["leads_to"] = "servces/*.md"
    data["facts"]["relations"]["team"]["column"] = "teem"
    data["facts"]["tables"]["staff/*.md"] = {"key": "title"}
    data["facts"]["relations"]["leads"] = data["facts"]["relations"]["lead"] | {"reversed": True, "place": "index"}
    recipe.source.write_text(yaml.safe_dump(data))
    with pytest.raises(RecipeError) as error:
        skillcompose.Recipe.from_yaml(recipe.source)
    said = str(error.value)
    for words in (
        "is an alias of",
        "did you mean 'services/*.md'",
        "did you mean 'team'",
        "no document in",
        "is that of 'lead'",
    ):
        assert words in said


def test_init_proposes_documents_with_reasons(company: Path, tmp_path: Path) -> None:
    path = write_project(tmp_path / "project", company)
    text = path.read_text()
    assert '"services/*.md": {key: "title", separator: ";"}' in text and "led to by customers.csv: uses" in text
    assert (
        "30 of 30 values name rows of services/*.md" in text and "2 in documents: left out, fewer than 8 rows" in text
    )
    recipe = skillcompose.Recipe.from_yaml(path)
    assert recipe.facts.relations["uses"].leads_to == "services/*.md"
    assert recipe.facts.relations["team"].place == "weights"
    assert json.dumps(recipe.model_dump(mode="json"))
