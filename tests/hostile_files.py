"""Documents and tables made by hand: well-formed ones, and those that an attacker or a broken disk leaves."""

import os
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

Maker = Callable[[Path], object]


def make_html(path: Path) -> None:
    path.write_text(
        "<html><head><title>T</title><script>bad()</script></head><body><nav>Menu</nav><div class=toc>Rules 1</div>"
        "<div class=toctree-wrapper><ul><li class=toctree-l1>Rules</ul></div>"
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


def laughs(path: Path) -> None:
    """A DOCX whose text is an entity that unfolds to gigabytes."""
    make_docx(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12))
    document = parts["word/document.xml"].replace(b"Thirty days.", b"&a12;")
    parts["word/document.xml"] = document.replace(b"<w:document", f"<!DOCTYPE x [{entities}]><w:document".encode(), 1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in parts.items():
            archive.writestr(name, body)


def truncated(path: Path, make: Maker = make_pdf, share: float = 0.3) -> None:
    make(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def endless_outline(path: Path) -> None:
    """A PDF whose second heading is followed by the first one."""
    make_pdf(path)
    body = path.read_bytes()
    path.write_bytes(body.replace(b"/Title (Pay) ", b"/Next 9 0 R /Title (Pay) "))


def nested(path: Path) -> None:
    path.write_text("<div>" * 20_000 + "deep" + "</div>" * 20_000)


def locked_office(path: Path) -> None:
    """What Word makes of a document with a password: no zip, but an OLE container."""
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"EncryptedPackage" * 200)


HOSTILE: dict[str, tuple[Maker, str]] = {
    "latin1.txt": (lambda p: p.write_bytes("Gr\xfc\xdfe".encode("latin-1")), "not UTF-8"),
    "utf16.md": (lambda p: p.write_bytes("# Text".encode("utf-16")), "not UTF-8"),
    "binary.txt": (lambda p: p.write_bytes(os.urandom(4096)), "not UTF-8"),
    "program.md": (lambda p: p.write_bytes(b"\x7fELF\x02\x01\x01\0\0\0 text"), "NUL"),
    "empty.md": (lambda p: p.touch(), "no text"),
    "blank.html": (lambda p: p.touch(), "no body|no text"),
    "deep.html": (nested, "nested too deeply"),
    "spans.html": (
        lambda p: p.write_text("<body><table><tr>" + "<td rowspan=999>x" * 200 + "<tr><td>y" * 200),
        "span too many rows",
    ),
    "only-script.html": (lambda p: p.write_text("<body><script>x</script></body>"), "no text"),
    "huge.txt": (sparse, "max_megabytes"),
    "huge.pdf": (sparse, "max_megabytes"),
    "no.pdf": (lambda p: p.write_bytes(b"%PDF-1.7\nbroken"), "no PDF"),
    "text.pdf": (lambda p: p.write_text("not a pdf at all"), "no PDF"),
    "empty.pdf": (lambda p: p.touch(), "no PDF"),
    "truncated.pdf": (truncated, "no PDF|no text"),
    "locked.pdf": (encrypted, "no PDF"),
    "scan.pdf": (lambda p: make_pdf(p, ((),), (("Scan", 0),)), "no text layer"),
    "no.docx": (lambda p: p.write_bytes(b"PK\x03\x04broken"), "damaged"),
    "text.docx": (lambda p: p.write_text("just text"), "damaged"),
    "truncated.docx": (lambda p: truncated(p, make_docx, 0.9), "damaged"),
    "password.docx": (locked_office, "damaged"),
    "laughs.docx": (laughs, "cannot be read|no text"),
    "bomb.docx": (zip_bomb, "would unpack"),
    "bomb.pptx": (zip_bomb, "would unpack"),
    "other.docx": (lambda p: zipfile.ZipFile(p, "w").writestr("a.txt", "hello"), "cannot be read"),
    "image.png": (lambda p: p.write_bytes(b"\x89PNG"), "no document type"),
    "noending": (lambda p: p.write_text("text"), "no document type"),
    "outside.md": (lambda p: p.symlink_to("/etc/hostname"), "outside"),
    "folder": (lambda p: p.symlink_to("/etc"), "link to a folder"),
    "nothing.md": (lambda p: p.symlink_to("missing.md"), "link to nothing"),
    "loop.md": (lambda p: p.symlink_to("loop.md"), "link to nothing|cannot be read"),
    "pipe.md": (os.mkfifo, "no ordinary file"),
    "device.md": (lambda p: p.symlink_to("/dev/zero"), "no ordinary file"),
    "escape\x1b[31m.md": (lambda p: p.write_text("Text."), "name"),
    "latin1-\udce9.md": (lambda p: p.write_text("Text."), "name"),
}
"""Documents that are not read, each with what its reason says."""


ODD: dict[str, Maker] = {
    "headings.md": lambda p: p.write_text("".join(f"# Heading {i}\n\nText {i}.\n\n" for i in range(5_000))),
    "one-line.txt": lambda p: p.write_text("word " * 50_000),
    "one-word.txt": lambda p: p.write_text("x" * 300_000),
    "outline.pdf": endless_outline,
    "unclosed.html": lambda p: p.write_text("<h1>Title<p>Text<table><tr><td>cell"),
    "fence.md": lambda p: p.write_text("# Title\n\n```\nnever closed\n# no heading\n"),
}
"""Documents that are read all the same."""


def database(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def xlsx_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * 30_000_000)


ENDLESS = "CREATE VIEW v AS WITH RECURSIVE n(package) AS (SELECT 1 UNION ALL SELECT package + 1 FROM n) SELECT * FROM n"
HOSTILE_TABLES: dict[str, tuple[Maker, str]] = {
    "deep.json": (lambda p: p.write_bytes(b"[" * 100_000), "correct or remove"),
    "list.json": (lambda p: p.write_bytes(b"[1, 2]"), "no list of objects"),
    "broken.jsonl": (lambda p: p.write_bytes(b'{"package": 1}\n{"package"'), "correct or remove"),
    "empty.csv": (lambda p: p.touch(), "no column"),
    "latin1.csv": (lambda p: p.write_bytes("package,owner\nGr\xfc\xdfe,x".encode("latin-1")), "correct or remove"),
    "nul.csv": (lambda p: p.write_bytes(b"package,owner\na\0b,x\n"), "NUL"),
    "ragged.csv": (lambda p: p.write_text("package,owner\na\nb,x,y,z\n"), "more cells"),
    "field.csv": (lambda p: p.write_text("package,owner\na," + "x" * 200_000 + "\n"), "field"),
    "huge.csv": (sparse, "MiB"),
    "outside.csv": (lambda p: p.symlink_to("/etc/passwd"), "outside"),
    "no.xlsx#Sheet": (lambda p: p.write_bytes(b"no zip"), "damaged"),
    "bomb.xlsx#Sheet": (xlsx_bomb, "would unpack"),
    "broken.sqlite#t": (lambda p: p.write_bytes(b"SQLite format 3\0 broken"), "correct or remove"),
    "view.sqlite#v": (lambda p: database(p, "CREATE TABLE t (package, owner)", ENDLESS), "no table"),
}
"""Tables that a recipe names and that cannot be read, each with what the error says."""
