"""Documents as tables: front matter, fields, definition lists and tables, each row with its source."""

from pathlib import Path

import pytest

from skillcompose.errors import KnowledgeBaseError
from skillcompose.facts.documents import proposed
from skillcompose.facts.sources import columns_of, rows_of
from skillcompose.passages.sections import sections

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
