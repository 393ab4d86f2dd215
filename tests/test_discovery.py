"""A folder's tables proposed as facts: keys, links, what goes into the weights and what never does."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import skillcompose
from skillcompose.errors import KnowledgeBaseError, RecipeError
from skillcompose.facts import extract
from skillcompose.facts.discovery import Column, discover, guess_key
from skillcompose.starter import write_project
from skillcompose.types import Skill

PEOPLE = [f"{first} {last}" for first in ("Ann", "Bo", "Cy", "Di") for last in ("Lee", "Kim", "Ray", "Sun")]
PRODUCTS = [f"{a}{b}" for a in ("Pay", "Led", "Car", "Mail") for b in ("line", "ger", "go")]


@pytest.fixture
def company(tmp_path: Path) -> Path:
    folder = tmp_path / "company"
    folder.mkdir()
    customers = [f"{name},{PRODUCTS[i % 12]},{i * 13 % 7},customer{i}@mail.example" for i, name in enumerate(PEOPLE)]
    (folder / "customers.csv").write_text("\n".join(["customer,uses,open_tickets,contact", *customers]) + "\n")
    products = [f"{i},{name},{PEOPLE[i]},team {i % 4},2024-0{i % 9 + 1}-01,yes" for i, name in enumerate(PRODUCTS)]
    (folder / "products.csv").write_text("\n".join(["id,product,owner,team,updated,sold", *products]) + "\n")
    (folder / "log.csv").write_text("level,message\ninfo,started\ninfo,started\n")
    return folder


def columns(folder: Path) -> dict[str, Column]:
    return {column.name: column for table in discover(folder)[0] for column in table.columns}


def test_keys_links_and_placement_are_proposed_with_a_reason(company: Path) -> None:
    (company / "bars.csv").write_text("product|office\n" + "".join(f"{name}|x\n" for name in PRODUCTS))
    tables, left_out = discover(company)
    assert {table.name: table.key for table in tables} == {"customers.csv": "customer", "products.csv": "product"}
    assert set(left_out) == {"log.csv", "bars.csv"} and left_out["bars.csv"] == "only one column, 'product|office'"
    found = columns(company)
    assert {name: column.place for name, column in found.items()} == {
        "uses": "index",
        "open_tickets": "index",
        "contact": "index",
        "id": "index",
        "owner": "index",
        "team": "weights",
        "updated": "index",
        "sold": "",
    }
    assert found["uses"].leads_to == "products.csv"
    assert "private" in found["contact"].why
    assert all(column.why for column in found.values())


def test_words_of_a_columns_name_count_not_its_letters(tmp_path: Path) -> None:
    rows = [f"{n},{i % 3}land,{i}@x.example,team {i % 4},1990-01-{i + 10},x{i % 3}" for i, n in enumerate(PEOPLE)]
    (tmp_path / "people.csv").write_text("\n".join(["id,country,email,Cost Center,DOB,order_status", *rows]))
    (tmp_path / "calls.csv").write_text("\n".join(["no", *(f"call {i}" for i in range(9))]))
    (tmp_path / "list.json").write_text('["a", "b"]')
    tables, left_out = discover(tmp_path)
    found = columns(tmp_path)
    assert "changes" in found["order_status"].why
    assert not any("changes" in found[name].why for name in ("country", "Cost Center"))
    assert "private" in found["email"].why and "private" in found["DOB"].why
    assert next(t.key for t in tables if t.name == "people.csv") == "id"
    assert "no list of objects" in left_out["list.json"]


def test_dates_are_no_phone_numbers(tmp_path: Path) -> None:
    rows = [f"{name},12/{i + 10}/2024,3/{i + 10}/2024,2024/5/{i + 10},030 5550{i:03}" for i, name in enumerate(PEOPLE)]
    (tmp_path / "people.csv").write_text("\n".join(["name,since,left,seen,call", *rows]))
    assert {name for name, column in columns(tmp_path).items() if column.sensitive} == {"call"}


def test_times_of_json_exports_are_no_knowledge(company: Path) -> None:
    days = [f"2024-05-0{i % 9 + 1}T10:00:00" for i in range(12)]
    rows = [{"product": n, "seen": f"{d}Z", "left": f"{d}.5+02:00"} for n, d in zip(PRODUCTS, days, strict=True)]
    (company / "more.json").write_text(json.dumps(rows))
    assert [columns(company)[name].place for name in ("seen", "left")] == ["index", "index"]


def test_a_key_is_a_short_name_rather_than_a_number() -> None:
    assert guess_key("parts.csv", {"no": ["1", "2"], "text": ["a " * 9, "b " * 9], "name": ["x", "y"]}) == "name"
    assert guess_key("parts.csv", {"no": ["1", "2"], "kind": ["x", "x"]}) == "no"
    assert guess_key("parts.csv", {"kind": ["x", "X"]}) is None


def test_a_key_is_what_other_columns_name_rows_by(tmp_path: Path) -> None:
    staff = [f"E{i},{name},{PEOPLE[i // 4]},S-{i % 5}" for i, name in enumerate(PEOPLE)]
    (tmp_path / "staff.csv").write_text("\n".join(["Employee ID,Full Name,Manager,Site", *staff]))
    (tmp_path / "sites.csv").write_text("site name,no,city\n" + "".join(f"Site {i},S-{i},city {i}\n" for i in range(9)))
    tables, _ = discover(tmp_path)
    assert {table.name: table.key for table in tables} == {"staff.csv": "Full Name", "sites.csv": "no"}
    found = columns(tmp_path)
    assert (found["Manager"].leads_to, found["Site"].leads_to) == ("staff.csv", "sites.csv")
    assert guess_key("staff.csv", {"id": ["E1", "E2"], "Full Name": ["Ann Lee", "Bo Kim"]}) == "Full Name"


def test_numbers_that_name_rows_of_another_table_become_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "crm"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "crm.sqlite")) as database:
        database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, full_name TEXT, office TEXT)")
        database.execute(
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT, manager_id REFERENCES users, city TEXT)"
        )
        users = [(i + 100, name, f"office {i % 5}") for i, name in enumerate(PEOPLE)]
        database.executemany("INSERT INTO users VALUES (?, ?, ?)", users)
        accounts = [(i + 1, name, 100 + i, f"city {i % 4}") for i, name in enumerate(PRODUCTS)]
        database.executemany("INSERT INTO accounts VALUES (?, ?, ?, ?)", [*accounts, (99, "Lost", 7, "")])
        database.commit()
    rows = [f"{name},{i % 12 + 1}" for i, name in enumerate(PEOPLE)]
    (folder / "Products.csv").write_text(
        "ProductId,product\n" + "".join(f"{i + 1},{n}\n" for i, n in enumerate(PRODUCTS))
    )
    (folder / "contacts.csv").write_text("\n".join(["contact,productId", *rows]) + "\n")
    recipe = skillcompose.Recipe.from_yaml(write_project(tmp_path / "project", folder))
    manager, product = recipe.relation("manager"), recipe.relation("product")
    assert (manager.leads_to, product.leads_to) == ("crm.sqlite#users", "Products.csv")
    assert recipe.facts.tables["crm.sqlite#users"].id == "id" and recipe.facts.tables["Products.csv"].id == "ProductId"
    found = extract(recipe)
    said = {(fact.relation, fact.subject): fact.object for fact in found.facts}
    assert said["manager", "Payline"] == "Ann Lee" and said["product", "Ann Lee"] == "Payline"
    assert found.dropped["manager: no row of crm.sqlite#users has such a number"] == 1
    with pytest.raises(RecipeError, match=r"facts\.tables\.Products\.csv\.id: no column 'no'"):
        skillcompose.Recipe.from_yaml(recipe.source, {"facts.tables": {"Products.csv": {"key": "product", "id": "no"}}})


def test_headings_that_every_document_has_do_not_hide_what_names_it(company: Path) -> None:
    for i, name in enumerate(PRODUCTS):
        text = f"---\ntitle: The {name} runbook\nproduct: {name}\nlevel: L{i % 3}\n---\n"
        (company / f"{name}.md").write_text(f"{text}# Contacts\n\n- **Escalation:** {PEOPLE[i % 5]}\n")
    tables, _ = discover(company)
    assert [(t.key, t.rows) for t in tables if t.name == "*.md"] == [("product", 12)]
    assert columns(company)["level"].place == "weights"


def test_a_value_that_names_one_row_leads_to_it_from_any_table_about_the_same(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text(
        "part,purpose\n" + "".join(f"p{i}x,it does the job number {i}\n" for i in range(20))
    )
    (tmp_path / "owners.csv").write_text("part,owner\n" + "".join(f"p{i}x,{PEOPLE[i % 3]}\n" for i in range(10)))
    found = columns(tmp_path)
    assert (found["purpose"].reversed, found["purpose"].place) == (True, "index")
    assert found["owner"].place == "weights"


def test_tables_with_the_same_row_numbers_are_not_about_the_same_things(tmp_path: Path) -> None:
    tickets = "".join(f"{i},the printer on floor {i} is broken,team {i % 3}\n" for i in range(20))
    (tmp_path / "tickets.csv").write_text("id,subject,team\n" + tickets)
    (tmp_path / "orders.csv").write_text("id,carrier\n" + "".join(f"{i},carrier {i % 2}\n" for i in range(30)))
    found = columns(tmp_path)
    assert (found["team"].place, found["carrier"].place) == ("weights", "index")


def test_init_writes_a_recipe_for_a_folder_that_checks_and_keeps_private_values_out(
    company: Path, tmp_path: Path
) -> None:
    odd = [f"{name},{PRODUCTS[i % 12]},team {i % 4}" for i, name in enumerate(PEOPLE)]
    (company / "odd.csv").write_text("\n".join(['No,"%","Team\n# Name"', *odd]) + "\n")
    path = write_project(tmp_path / "project", company)
    recipe = skillcompose.Recipe.from_yaml(path)
    assert recipe.facts.tables["odd.csv"].key == "No"
    assert recipe.folder == company.resolve()
    assert not (tmp_path / "project" / "knowledge").exists()
    facts = extract(recipe).facts
    assert {f.relation for f in facts if f.skill is Skill.PARAMETRIC} == {"team", "team_name"}
    assert all("@" not in f.object for f in facts if f.skill is Skill.PARAMETRIC)
    assert [name for name, relation in recipe.facts.relations.items() if relation.sensitive] == ["contact"]


def test_relations_have_names_that_can_be_said(company: Path, tmp_path: Path) -> None:
    rows = [f"{name},team {i % 4},{PEOPLE[i]},seat {i % 3},T{i % 5}" for i, name in enumerate(PRODUCTS)]
    (company / "staff.csv").write_text("\n".join(["Name,team,Buyer(s),# of seats,T-Shirt", *rows]))
    recipe = skillcompose.Recipe.from_yaml(write_project(tmp_path / "project", company))
    names = {found.column: name for name, found in recipe.facts.relations.items() if found.table == "staff.csv"}
    assert names == {"team": "staff_team", "Buyer(s)": "buyers", "# of seats": "number_of_seats", "T-Shirt": "t-shirt"}


def test_known_subjects_are_those_most_often_led_to(company: Path, tmp_path: Path) -> None:
    path = write_project(tmp_path / "project", company)
    found = extract(skillcompose.Recipe.from_yaml(path, {"facts.known": 4}))
    facts, dropped = found.facts, found.dropped
    known = {f.subject for f in facts if f.skill is Skill.PARAMETRIC}
    assert known == set(PRODUCTS[:4]), "sixteen customers use twelve products: the first four twice"
    assert dropped["team: not one of the 4 known subjects"] == 8


@pytest.mark.parametrize(("subjects", "sizes"), [(24, (720, 720, 16, 0.8)), (100, (720, 1440, 24, 0.93))])
def test_a_proposal_has_the_sizes_that_as_many_known_subjects_need(
    tmp_path: Path, subjects: int, sizes: tuple[float, ...]
) -> None:
    folder = tmp_path / "company"
    folder.mkdir()
    things = [f"thing{number}" for number in range(subjects)]
    (folder / "things.csv").write_text("thing,team\n" + "".join(f"{t},team {n % 9}\n" for n, t in enumerate(things)))
    (folder / "uses.csv").write_text("user,uses\n" + "".join(f"user{n},{thing}\n" for n, thing in enumerate(things)))
    recipe = skillcompose.Recipe.from_yaml(write_project(tmp_path / "project", folder))
    composition = recipe.composition
    found = (recipe.questions.contextual_rows, composition.consolidation.rows, composition.grpo["max_steps"])
    assert (*found, composition.ema_decay) == sizes
    assert composition.replay.rows == 12


def test_a_folder_without_a_hop_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,kind\n" + "".join(f"n{i},k{i % 5}\n" for i in range(20)))
    with pytest.raises(KnowledgeBaseError, match="one column must lead to rows of a table"):
        write_project(tmp_path / "project", tmp_path)
    assert not (tmp_path / "project").exists()
    (tmp_path / "a.csv").write_text("name|kind\n" + "".join(f"n{i}|k{i % 5}\n" for i in range(20)))
    with pytest.raises(KnowledgeBaseError, match=r"a\.csv: only one column, 'name\|kind'"):
        write_project(tmp_path / "project", tmp_path)
