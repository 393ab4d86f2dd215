"""Documents and tables of every kind, as they are and as an attacker or a broken disk leaves them."""

import json
import re
import sqlite3
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from hostile_files import HOSTILE, HOSTILE_TABLES, ODD, make_docx, make_html, make_pdf, make_pptx

import skillcompose
from skillcompose.errors import KnowledgeBaseError, RecipeError
from skillcompose.facts.sources import rows_of
from skillcompose.files import printable
from skillcompose.passages.chunks import passages_of, without_copies
from skillcompose.passages.readers import READERS
from skillcompose.tables import columns, read_table, table_names
from skillcompose.types import Passage


def passages(path: Path) -> list[Passage]:
    return passages_of(READERS[path.suffix](path), path.name, lambda text: [(0, text)])


def places(path: Path) -> list[tuple[str, str, str]]:
    return [(p.position, p.anchor, " ".join(p.text.split())) for p in passages(path)]


def test_html_gives_its_main_part_with_headings_anchors_and_tables(tmp_path: Path) -> None:
    make_html(tmp_path / "x.html")
    assert places(tmp_path / "x.html") == [
        ("Rules", "rules", "Be kind & **brief**."),
        ("Rules > 1. First", "first", "| A | B | | --- | --- | | 1 | 2 |"),
        ("Rules > Last", "last", "``` # no heading ```"),
    ]


def test_html_tables_have_every_cell_in_its_column(tmp_path: Path) -> None:
    rows = [
        "<th>Team<th>Room<th>Lead",
        "<td rowspan=3>red<td>1<td rowspan=2>Ann|Bo",
        "<td>2",
        "<td colspan=1>3<td><table><tr><td>Cy<td>Di</table>",
        "<td>blue<td>4<td>Ed",
    ]
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    (tmp_path / "x.html").write_text(f"<body><h1>Teams</h1><p>a | b</p><table>{table}</table></body>")
    assert [list(row.values()) for _, row in rows_of(tmp_path, "x.html#Teams")] == [
        ["red", "1", "Ann/Bo"],
        ["red", "2", "Ann/Bo"],
        ["red", "3", "Cy Di"],
        ["blue", "4", "Ed"],
    ]
    assert "a | b" in READERS[".html"](tmp_path / "x.html")


def test_pdf_pages_are_cut_at_the_outlines_titles(tmp_path: Path) -> None:
    make_pdf(tmp_path / "x.pdf")
    assert places(tmp_path / "x.pdf") == [
        ("x", "page=1", "Handbook"),
        ("Holidays", "page=1", "Thirty days. Handbook Not in winter."),
        ("Pay", "page=2", "Monthly."),
    ]


def test_running_heads_page_numbers_and_contents_are_no_text(tmp_path: Path) -> None:
    body = tuple(("Acme Handbook", f"Text {'abcdefgh'[i]}.", f"{i + 1}") for i in range(6))
    contents = ("Acme Handbook", "Holidays . . . . . . . . . 12", "7")
    make_pdf(tmp_path / "x.pdf", (*body, contents), (("Nowhere", 2),))
    assert places(tmp_path / "x.pdf") == [
        ("x", "page=1", "Text a. Text b."),
        ("Nowhere", "page=3", "Text c. Text d. Text e. Text f."),
    ]


def test_text_that_looks_like_markdown_stays_text(tmp_path: Path) -> None:
    lines = ("Install", "# apt-get install foo", "```", "Gamma is next.")
    make_pdf(tmp_path / "x.pdf", (lines, ("More.",)), (("Install", 0), ("Gamma", 0)))
    found = places(tmp_path / "x.pdf")
    assert [position for position, _, _ in found] == ["Install", "Gamma"]
    assert "apt-get install foo" in found[0][2]
    hostile = "# x" + " " * 50_000 + "y\n" + "text\n" * 50_000
    (tmp_path / "x.md").write_text(hostile)
    assert len(passages(tmp_path / "x.md")[0].text) >= 5 * 50_000 - 1


def test_office_files_keep_headings_tables_and_slides(tmp_path: Path) -> None:
    make_docx(tmp_path / "x.docx")
    make_pptx(tmp_path / "x.pptx")
    assert places(tmp_path / "x.docx") == [
        ("Handbook > Holidays", "", "Thirty days. | Office | Days / here | |---|---|")
    ]
    assert places(tmp_path / "x.pptx") == [("Plan", "slide=1", "Sell more. Say it slowly.")]


def test_copies_are_found_under_the_same_headings_and_with_the_same_numbers_only() -> None:
    words = [f"word{'abcdefghij'[i // 10]}{'abcdefghij'[i % 10]}" for i in range(100)]
    texts = {"a": words, "b": words, "c": [*words[:-1], "end"], "d": words[50:], "f": [*words[:-1], "16"]}
    made = [Passage(name, "Leave", " ".join(text), "x.md", "France > Leave") for name, text in texts.items()]
    made.append(Passage("e", "Leave", " ".join(words), "y.md", "Germany > Leave"))
    kept, copies = without_copies(made)
    assert [p.id for p in kept] == ["a", "d", "f", "e"]
    assert copies == {"b": "a", "c": "a"}


ROWS = [{"name": "Ann", "age": 41, "langs": ["de", "en"]}, {"name": "Bo", "age": None, "city": "Ulm"}]


def test_tables_of_every_kind_have_the_same_rows(tmp_path: Path) -> None:
    import openpyxl

    cells = [["name", "age"], ["Ann", 41], ["Bo", None]]
    (tmp_path / "a.csv").write_text("name,age\nAnn,41\nBo\n")
    (tmp_path / "b.tsv").write_text("name\tage\nAnn\t41\nBo\t\n")
    (tmp_path / "c.json").write_text(json.dumps(ROWS))
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    book = openpyxl.Workbook()
    book.active.title = "May"
    for row in cells:
        book.active.append(row)
    book.save(tmp_path / "e.xlsx")
    database = sqlite3.connect(tmp_path / "f.sqlite")
    database.execute("CREATE TABLE people (name, age)")
    database.executemany("INSERT INTO people VALUES (?, ?)", cells[1:])
    database.commit()
    names = table_names(tmp_path)
    assert names == ["a.csv", "b.tsv", "c.json", "d.jsonl", "e.xlsx#May", "f.sqlite#people"]
    for name in names:
        found = [(row["name"], row["age"]) for _, row in read_table(tmp_path, name)]
        assert found == [("Ann", "41"), ("Bo", "")], name
        assert columns(tmp_path, name)[:2] == ["name", "age"]
    assert read_table(tmp_path, "c.json", 1)[0][1] == {"name": "Ann", "age": "41", "langs": "de; en", "city": ""}


def test_every_column_of_a_table_is_kept_or_the_table_is_refused(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["name", "since"])
    book.active.append(["Ann", datetime(2024, 5, 1)])
    book.active.append(["Bo", datetime(2024, 5, 1, 8, 30)])
    book.create_sheet("empty").append(["name", "age"])
    book.create_sheet("twice").append(["name", "age", "age"])
    book.save(tmp_path / "a.xlsx")
    dates = [row["since"] for _, row in read_table(tmp_path, "a.xlsx#Sheet")]
    assert dates == ["2024-05-01", "2024-05-01 08:30:00"]
    sqlite3.connect(tmp_path / "b.sqlite").execute("CREATE TABLE t (name, age)")
    (tmp_path / "c.csv").write_text("name;age\nAnn;1,5\n")
    (tmp_path / "d.csv").write_text("name,age,age\nAnn,1,2\n")
    for name in ("a.xlsx#empty", "b.sqlite#t", "c.csv"):
        assert columns(tmp_path, name) == ["name", "age"], name
    assert read_table(tmp_path, "c.csv") == [(2, {"name": "Ann", "age": "1,5"})]
    for name in ("a.xlsx#twice", "d.csv"):
        with pytest.raises(KnowledgeBaseError, match="has the column 'age' twice; correct"):
            read_table(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'name,owner\n"Orion,Bob\nVega,Cid\n'),
        ("a.tsv", 'name\towner\n"b" c\tBob\nVega\tCid\n'),
        ("a.json", '[{"name": "a", "owner": "x\\ud83d"}]'),
    ],
)
def test_what_would_be_lost_without_a_word_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(KnowledgeBaseError, match=name):
        read_table(tmp_path, name)
    (tmp_path / "b.csv").write_text('name,owner\n"Orion", "Ann, Lee"\n')
    assert read_table(tmp_path, "b.csv")[0][1] == {"name": "Orion", "owner": "Ann, Lee"}


def test_what_programs_write_around_a_table_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",name , age,\n0,Ann,41,\n1,Bo,,\n,,,\n")
    assert columns(tmp_path, "a.csv") == ["name", "age"]
    rows = [{"name": "Ann", "age": "41"}, {"name": "Bo", "age": ""}]
    assert [row for _, row in read_table(tmp_path, "a.csv")] == rows


@pytest.mark.parametrize(
    "text", ['a;"b, c"\n1;2,5\n', "a;b, c;d\n1;2,5;3\n", 'a\t"b, c"\n1\t2,5\n', 'a,"b; c; d"\n1,"2,5"\n']
)
def test_columns_are_parted_by_what_parts_most_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert list(read_table(tmp_path, "a.csv")[0][1].values())[:2] == ["1", "2,5"]


@pytest.mark.parametrize("name", HOSTILE_TABLES)
def test_a_broken_table_is_one_clear_error(tmp_path: Path, recipe_file: Path, name: str) -> None:
    import yaml

    make, reason = HOSTILE_TABLES[name]
    make(tmp_path / name.partition("#")[0])
    (tmp_path / "packages.csv").write_text("package,kind,needs\na,b,c\n")
    data = yaml.safe_load(recipe_file.read_text()) | {"knowledge_base": str(tmp_path)}
    data["facts"]["tables"] = {name: {"key": "package"}, "packages.csv": {"key": "package"}}
    for relation in ("owner", "size"):
        data["facts"]["relations"][relation] |= {"table": name, "column": "owner"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises((KnowledgeBaseError, RecipeError), match=reason):
        recipe = skillcompose.Recipe.from_yaml(tmp_path / "recipe.yaml")
        skillcompose.train(recipe, tmp_path.with_name(f"{tmp_path.name}-run"), until="facts")


def test_hostile_files_end_in_a_named_reason_and_a_finished_run(tmp_path: Path, recipe_file: Path) -> None:
    folder = tmp_path / "kb"
    folder.mkdir()
    (folder / "good.md").write_text("# Good\n\nText.")
    for name, make in [*ODD.items(), *((name, make) for name, (make, _) in HOSTILE.items())]:
        make(folder / name)
    recipe = skillcompose.Recipe.from_yaml(recipe_file).model_copy(update={"knowledge_base": str(folder)})
    run = skillcompose.train(recipe, tmp_path / "run", until="passages")
    report = json.loads((run.stage("passages") / "passages.report.json").read_text())
    for name, (_, reason) in HOSTILE.items():
        assert re.search(reason, report["unread"][printable(name)]), f"{name!a}: {report['unread'][printable(name)]}"
    assert set(report["unread"]) == set(map(printable, HOSTILE))
    assert report["documents"] == len(ODD) + 1


def test_the_second_run_reads_only_what_changed_and_loads_no_torch(tmp_path: Path, recipe_file: Path) -> None:
    folder, run = tmp_path / "kb", tmp_path / "run"
    folder.mkdir()
    (folder / "a.md").write_text("# A\n\nOld.")
    make_pdf(folder / "b.pdf")
    recipe = skillcompose.Recipe.from_yaml(recipe_file).model_copy(update={"knowledge_base": str(folder)})
    skillcompose.train(recipe, run, until="passages")
    before = {path.name for path in (run / ".read").iterdir()}
    (folder / "a.md").write_text("# A\n\nNew.")
    code = (
        "import sys, skillcompose\n"
        "recipe = skillcompose.Recipe.from_yaml(sys.argv[1]).model_copy(update={'knowledge_base': sys.argv[2]})\n"
        "skillcompose.train(recipe, sys.argv[3], until='passages')\n"
        "assert not {'torch', 'pypdfium2'} & set(sys.modules), 'read the PDF again'\n"
    )
    done = subprocess.run([sys.executable, "-c", code, recipe_file, folder, run], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = {path.name for path in (run / ".read").iterdir()}
    assert len(after) == len(before) == 2
    assert len(before & after) == 1
