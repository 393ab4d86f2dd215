"""Documents as tables: front matter, fields, definition lists and tables, each row with its source."""

from collections import Counter
from pathlib import Path

import pytest

import skillcompose
from skillcompose.errors import KnowledgeBaseError
from skillcompose.facts import extract
from skillcompose.facts.documents import proposed
from skillcompose.facts.sources import columns_of, rows_of
from skillcompose.index import compile_passages
from skillcompose.passages.chunks import passages_of
from skillcompose.passages.sections import sections
from skillcompose.prompts import prompt
from skillcompose.questions.redaction import Redaction
from skillcompose.types import Passage, Question, Skill

SERVICE = """---
title: Beacon
Owner: Ann Lee
tags: [mail, web]
since: 2024-01-02
nested: {a: 1}
---
# Beacon

- **Tier:** [gold](tiers.md)
- Region: north

Note: this is prose.

## Contacts {#people}

| Role | Person |
|---|---|
| lead | **Ann Lee** |
| on call | Bo \\| Kim |

Uptime
: 99 %

Window
: nights
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "beacon.md").write_text(SERVICE)
    (tmp_path / "services" / "meadow.md").write_text(
        "# Meadow\n\nOWNER: Bo Kim\nTier: silver\n\n```\nKey: no\nB: no\n```\n"
    )
    return tmp_path


def test_fields_below_a_heading_are_a_row_with_its_source(folder: Path) -> None:
    rows = dict(rows_of(folder, "services/*.md"))
    assert rows["services/beacon.md:2"] == {
        "title": "Beacon",
        "document": "beacon",
        "owner": "Ann Lee",
        "tags": "mail; web",
        "since": "2024-01-02",
        "tier": "gold",
        "region": "north",
    }
    assert rows["services/meadow.md:3"] == {
        "title": "Meadow",
        "document": "meadow",
        "owner": "Bo Kim",
        "tier": "silver",
    }
    contacts = rows["services/beacon.md#people:17"]
    assert contacts["title"] == "Contacts" and contacts["uptime"] == "99 %" and contacts["window"] == "nights"
    assert contacts["lead"] == "Ann Lee", "a small table of two columns has fields, too"


def test_a_table_in_a_document_is_named_by_its_heading(folder: Path) -> None:
    assert rows_of(folder, "services/beacon.md#Contacts") == [
        ("services/beacon.md#people:19", {"Role": "lead", "Person": "Ann Lee"}),
        ("services/beacon.md#people:20", {"Role": "on call", "Person": "Bo | Kim"}),
    ]
    assert columns_of(folder, "services/beacon.md#Contacts 2", {"term"}) == ["term", "definition"]
    with pytest.raises(KnowledgeBaseError, match="no table or definition list below the heading 'People'"):
        rows_of(folder, "services/beacon.md#People")
    with pytest.raises(KnowledgeBaseError, match="no document in"):
        rows_of(folder, "teams/*.md")


def test_tables_and_definition_lists_of_html_and_docx_are_read_as_their_readers_give_them(tmp_path: Path) -> None:
    cells = "<tr><th>Owner</th><td>Ann</td></tr><tr><th>Tier</th><td>gold</td></tr>"
    (tmp_path / "a.html").write_text(
        f"<body><h1 id=top>Beacon</h1><table>{cells}</table><dl><dt>Office</dt><dd>Oslo</dd></dl></body>"
    )
    ((source, row),) = rows_of(tmp_path, "*.html")
    assert source.startswith("a.html#top:")
    assert row == {"title": "Beacon", "document": "a", "owner": "Ann", "tier": "gold", "office": "Oslo"}
    import docx

    document = docx.Document()
    document.add_heading("Meadow", 1)
    document.add_paragraph("Owner: Bo")
    document.add_paragraph("Tier: silver")
    table = document.add_table(2, 3)
    for number, text in enumerate(["Name", "Role", "Room", "Cy", "lead", "3"]):
        table.rows[number // 3].cells[number % 3].text = text
    document.save(str(tmp_path / "b.docx"))
    assert rows_of(tmp_path, "b.docx")[0][1] == {"title": "Meadow", "document": "b", "owner": "Bo", "tier": "silver"}
    assert [row for _, row in rows_of(tmp_path, "b.docx#Meadow")] == [{"Name": "Cy", "Role": "lead", "Room": "3"}]


def test_front_matter_is_a_passage_under_the_documents_title() -> None:
    first, second = sections("---\nowner: Ann\n---\n# Beacon\n\nText.\n", "p-17")
    assert (first.trail, first.text) == (["Beacon"], "owner: Ann")
    assert (second.trail, second.text.strip(), second.line) == (["Beacon"], "Text.", 5)
    (rule,) = sections("---\nA line between rules.\n---\n", "x")
    assert rule.trail == ["x"] and rule.text.startswith("---")


def test_what_documents_could_be_is_proposed_and_a_broken_one_is_named(folder: Path) -> None:
    (folder / "broken.md").write_bytes(b"\xff\xfe\x00")
    found, unread = proposed(folder)
    assert set(found) == {"services/*.md", "services/beacon.md#Contacts", "services/beacon.md#Contacts 2"}
    assert "UTF-8" in unread["broken.md"]
    with pytest.raises(KnowledgeBaseError, match=r"broken\.md is not UTF-8"):
        rows_of(folder, "broken.md")
    (folder / "broken.md").rename(folder / "services" / "broken.md")
    assert len(rows_of(folder, "services/*.md")) == 3, "one broken document stops no others"


def test_no_field_is_lost_to_another_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Ann Lee\n\nTitle: CTO\nDepends on: A\nDepends on: B\nDepends  on: A\n")
    ((_, row),) = rows_of(tmp_path, "a.md")
    assert row == {"title": "Ann Lee", "document": "a", "title 2": "CTO", "depends on": "A; B"}


def test_a_heading_that_comes_again_is_another_row(tmp_path: Path) -> None:
    text = "# Minutes\n\n## Decision\n\nOwner: Ann\nDue: May\n\n## Decision\n\nOwner: Bo\nDue: June\n"
    for cut in (0, len("# Minutes\n\n")):
        (tmp_path / "a.md").write_text(text[cut:])
        assert [row["owner"] for _, row in rows_of(tmp_path, "a.md")] == ["Ann", "Bo"]
    (tmp_path / "a.md").write_text("---\ntitle: Cedar\nowner: Ann\n---\n# Cedar\n\nOwner: Bo\nTier: gold\n")
    ((_, row),) = rows_of(tmp_path, "a.md")
    assert row["owner"] == "Ann" and row["tier"] == "gold", "front matter goes before"


def test_names_with_brackets_are_no_patterns(folder: Path) -> None:
    (folder / "services").rename(folder / "services [2024]")
    (folder / "all [2024].md").write_text("# Cedar\n\nOwner: Cy\nTier: gold\n")
    found, _ = proposed(folder)
    assert {name for name in found if "#" not in name} == {"services [[]2024]/*.md", "all [2024].md"}
    assert all(rows_of(folder, name) == rows for name, rows in found.items() if "#" not in name)


def test_sensitive_fields_and_cells_of_documents_are_in_no_training_row(tmp_path: Path, recipe_file: Path) -> None:
    people = {"Ann Kim": ("Blue team", "MS", "south"), "Bo Lee": ("Red team", "A", "north")}
    for name, (team, grade, band) in people.items():
        fields = f"Team: {team}\n**Region:** {band}\n- Band: {band}\n\nHas a dog.\n\n| Phone | 030 555 |\n\n"
        (tmp_path / f"{name}.md").write_text(f"# {name}\n\n{fields}**Grade:** {grade}")
    text = "| Who | Pin |\n|---|---|\n| Ann Kim | 117 |\n| Bo Lee | 118 |\n"
    (tmp_path / "pins.markdown").write_text(f"# Pins\n\n{text}")
    secret = {"place": "index", "sensitive": True}
    relations = {name: {"table": "*.md", "column": name, **secret} for name in ("grade", "band")}
    relations |= {name: {"table": "*.md", "column": name, "place": "index"} for name in ("team", "region")}
    relations["pin"] = {"table": "pins.markdown#Pins", "column": "Pin", **secret}
    values = skillcompose.Recipe.from_yaml(recipe_file).model_dump(mode="json") | {"knowledge_base": str(tmp_path)}
    tables = {"*.md": {"key": "title"}, "pins.markdown#Pins": {"key": "Who"}}
    values["facts"] = {"tables": tables, "relations": relations | {"phone": relations["band"] | {"column": "phone"}}}
    recipe = skillcompose.Recipe(**values)
    facts = extract(recipe).facts
    files = [*sorted(tmp_path.glob("*.md")), tmp_path / "pins.markdown"]
    passages = [p for path in files for p in passages_of(path.read_text(), path.name, lambda text: [(0, text)])]
    compiled, _ = compile_passages(passages, facts, recipe)
    assert "Grade:** MS" in compiled[0].text and "117" in compiled[2].text, "all of it is retrieved"
    prose = Passage("p", "Talk", "Ann Kim has MS.", "t.md", "Talk")
    asked = [
        Question(f"{n}", "Who?", ("x",), "So: x", Skill.COMPLEMENTARY, "uses > team", (), passages=tuple(shown))
        for n, shown in enumerate((compiled, [prose]))
    ]
    dropped: Counter[str] = Counter()
    (kept,) = Redaction(facts, recipe).rows(asked, dropped)
    shown = prompt(kept.text, kept.passages)
    for value in ("MS", "117", "118", "030 555", "Grade", "Band"):
        assert value not in shown, value
    for value in (
        "Region:** south",
        "Has a dog.",
        "The region of Bo Lee is north.",
        "The team of Ann Kim is Blue team.",
    ):
        assert value in shown, value
    assert dropped == {"uses > team: not trained on, it shows something sensitive": 1}
