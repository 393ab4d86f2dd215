"""Documents and tables of every kind, as they are and as an attacker or a broken disk leaves them."""

import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import skillcompose
from skillcompose.errors import KnowledgeBaseError
from skillcompose.passages.chunks import passages_of, without_copies
from skillcompose.passages.readers import READERS
from skillcompose.tables import columns, read_table, table_names
from skillcompose.types import Passage


def passages(path: Path) -> list[Passage]:
    return passages_of(READERS[path.suffix](path), path.name, lambda text: [(0, text)])


def places(path: Path) -> list[tuple[str, str, str]]:
    return [(p.position, p.anchor, " ".join(p.text.split())) for p in passages(path)]


def make_html(path: Path) -> None:
    path.write_text(
        "<html><head><title>T</title><script>bad()</script></head><body><nav>Menu</nav><div class=toc>Rules 1</div>"
        "<section id=rules><h1>Rules<a class=headerlink href=#rules>¶</a></h1><p>Be kind &amp; <b>brief</b>.</p>"
        "<section id=first><h2>1. First</h2><table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>"
        "</section></section><h2><a id=last></a>Last</h2><pre># no heading\n</pre></body></html>"
    )


def make_docx(path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_heading("Handbook", 0)
    document.add_heading("Holidays", 1)
    document.add_paragraph("Thirty days.")
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Office", "Days | here"
    document.save(str(path))


def make_pptx(path: Path) -> None:
    import pptx

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = "Plan", "Sell more."
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    deck.save(str(path))


def make_pdf(path: Path, pages: tuple[tuple[str, ...], ...] = (), titles: tuple[tuple[str, int], ...] = ()) -> None:
    """A PDF by hand: lines of text, and an outline of (title, page)."""
    pages = pages or (("Handbook", "1. Holidays", "Thirty days."), ("Handbook", "Not in winter.", "2. Pay", "Monthly."))
    titles = titles or (("Holidays", 0), ("Pay", 1))
    first, outline = 4, 4 + 2 * len(pages)
    kids = " ".join(f"{first + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R /Outlines {outline} 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, lines in enumerate(pages):
        drawn = "BT /F1 12 Tf 14 TL 72 720 Td " + " T* ".join(f"({line}) Tj" for line in lines) + " ET"
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {font} /Contents {first + 2 * i + 1} 0 R >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    objects.append(f"<< /First {outline + 1} 0 R /Last {outline + len(titles)} 0 R /Count {len(titles)} >>")
    for i, (title, page) in enumerate(titles):
        follows = f" /Next {outline + i + 2} 0 R" if i + 1 < len(titles) else ""
        place = f"[{first + 2 * page} 0 R /XYZ 0 720 0]"
        objects.append(f"<< /Title ({title}) /Parent {outline} 0 R /Dest {place}{follows} >>")
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R >>"
    path.write_bytes(out + f"{trailer}\nstartxref\n{len(out)}\n%%EOF\n".encode())


def test_html_gives_its_main_part_with_headings_anchors_and_tables(tmp_path: Path) -> None:
    make_html(tmp_path / "x.html")
    assert places(tmp_path / "x.html") == [
        ("Rules", "rules", "Be kind & **brief**."),
        ("Rules > 1. First", "first", "| A | B | | --- | --- | | 1 | 2 |"),
        ("Rules > Last", "last", "``` # no heading ```"),
    ]


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


def test_copies_are_found_under_the_same_heading_only() -> None:
    words = [f"word{i}" for i in range(100)]
    texts = {"a": words, "b": words, "c": [*words[:-1], "end"], "d": words[50:]}
    made = [Passage(name, "Rules", " ".join(text), "x.md", "Rules") for name, text in texts.items()]
    made.append(Passage("e", "Other rules", " ".join(words), "x.md", "Other rules"))
    kept, copies = without_copies(made)
    assert [p.id for p in kept] == ["a", "d", "e"]
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"[" * 100_000),
        ("a.json", b"[1, 2]"),
        ("a.jsonl", b'{"a": 1}\n{"a"'),
        ("a.xlsx#Sheet", b"no zip"),
        ("a.sqlite#t", b"SQLite format 3\0 broken"),
        ("a.csv", b"\xff\xfe\xfa"),
    ],
)
def test_a_broken_table_is_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name.partition("#")[0]).write_bytes(content)
    with pytest.raises(KnowledgeBaseError, match="correct or remove"):
        read_table(tmp_path, name)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * 30_000_000)


def encrypted(path: Path) -> None:
    make_pdf(path)
    body = path.read_bytes().replace(b"/Root 1 0 R", b"/Root 1 0 R /Encrypt << /Filter /Standard /V 9 /R 9 >>")
    path.write_bytes(body)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "latin1.txt": (lambda p: p.write_bytes("Gr\xfc\xdfe".encode("latin-1")), "not UTF-8"),
    "utf16.md": (lambda p: p.write_bytes("# Text".encode("utf-16")), "not UTF-8"),
    "binary.txt": (lambda p: p.write_bytes(os.urandom(4096)), "not UTF-8"),
    "empty.md": (lambda p: p.touch(), "no text"),
    "blank.html": (lambda p: p.touch(), "no body|no text"),
    "only-script.html": (lambda p: p.write_text("<body><script>x</script></body>"), "no text"),
    "huge.txt": (sparse, "max_megabytes"),
    "huge.pdf": (sparse, "max_megabytes"),
    "no.pdf": (lambda p: p.write_bytes(b"%PDF-1.7\nbroken"), "no PDF"),
    "text.pdf": (lambda p: p.write_text("not a pdf at all"), "no PDF"),
    "locked.pdf": (encrypted, "no PDF"),
    "scan.pdf": (lambda p: make_pdf(p, ((),), (("Scan", 0),)), "no text layer"),
    "no.docx": (lambda p: p.write_bytes(b"PK\x03\x04broken"), "damaged"),
    "text.docx": (lambda p: p.write_text("just text"), "damaged"),
    "bomb.docx": (zip_bomb, "would unpack"),
    "bomb.pptx": (zip_bomb, "would unpack"),
    "other.docx": (lambda p: zipfile.ZipFile(p, "w").writestr("a.txt", "hello"), "cannot be read"),
    "image.png": (lambda p: p.write_bytes(b"\x89PNG"), "no document type"),
    "noending": (lambda p: p.write_text("text"), "no document type"),
    "outside.md": (lambda p: p.symlink_to("/etc/hostname"), "outside"),
    "nothing.md": (lambda p: p.symlink_to("missing.md"), "link to nothing"),
    "loop.md": (lambda p: p.symlink_to("loop.md"), "link to nothing|cannot be read"),
}


def test_hostile_files_end_in_a_named_reason_and_a_finished_run(tmp_path: Path, recipe_file: Path) -> None:
    folder = tmp_path / "kb"
    folder.mkdir()
    (folder / "good.md").write_text("# Good\n\nText.")
    # Deep nesting is no reason to give up the text.
    (folder / "deep.html").write_text("<div>" * 5000 + "deep" + "</div>" * 5000)
    for name, (make, _) in HOSTILE.items():
        make(folder / name)
    recipe = skillcompose.Recipe.from_yaml(recipe_file).model_copy(update={"knowledge_base": str(folder)})
    run = skillcompose.train(recipe, tmp_path / "run", until="passages")
    report = json.loads((run.stage("passages") / "passages.report.json").read_text())
    assert set(HOSTILE) <= set(report["unread"])
    import re

    for name, (_, reason) in HOSTILE.items():
        assert re.search(reason, report["unread"][name]), f"{name}: {report['unread'][name]}"
    assert report["documents"] + len(report["unread"]) == len(HOSTILE) + 2


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
