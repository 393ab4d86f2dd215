"""A reader turns a file into Markdown whose headings carry their anchor: `## Title {#anchor}`.

An anchor is what a link to the place has behind its `#`: an element's id, `page=12`, `slide=3`. A line of an anchor
alone says that what follows is there.

Parsers, none under the AGPL and none with a model: pdfium, which Chrome reads PDFs with, is a hundred times faster
than those in Python; python-docx and python-pptx; Beautiful Soup with markdownify.
"""

import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

from skillcompose.files import Unreadable, check_zip

OUTSIDE = "script, style, template, noscript, nav, footer, aside, input, select, textarea, button, svg"
CONTENTS = (
    "[role=navigation], [role=search], .toc, .contents.topic, li[class^=toctree-l], .headerlink, .related, "
    ".sphinxsidebar, .navheader, .navfooter, [hidden]"
)
NUMBER = re.compile(r"^(?:(?:Chapter|Appendix|Section)\s+)?(?:\d+|[A-Z])(?:\.\d+)*\.?\s+")
LEADERS = re.compile(r"(?:\.\s?){4,}\s*[\divxlc]+\s*$")
REPEATED = 0.3  # of the pages: a line that begins or ends so many is no text; with a page's number, three are enough
COPIED = 1_000_000  # letters of cells that span rows; a small file can ask for gigabytes
PAGED = re.compile(r"^\d+\b|\b\d+$")


def text(path: Path) -> str:
    try:
        found = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 text (byte {error.start})") from None
    if "\0" in found:
        raise Unreadable("holds NUL, so it is no text")
    return found


def html(path: Path) -> str:
    """The main part, without navigation and contents; links keep their text only."""
    from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
    from markdownify import MarkdownConverter

    warnings.filterwarnings("ignore", category=XMLParsedAsHTMLWarning)  # XHTML is read well enough
    soup = BeautifulSoup(path.read_bytes(), "lxml")
    for element in soup.select(f"{OUTSIDE}, {CONTENTS}"):
        element.decompose()
    found = soup.select("main, [role=main]") or soup.select("article")
    main = found[0] if len(found) == 1 else soup.body
    if main is None:
        raise Unreadable("has no body")
    for heading in main.select("h1, h2, h3, h4, h5, h6"):
        inside = heading.select_one("[id], a[name]")
        section = heading.find_parent("section")
        first = section is not None and section.find(heading.name) is heading
        for place in (heading, inside, section if first else None):
            anchor = place and (place.get("id") or place.get("name"))
            if anchor:
                heading.append(f" {{#{anchor}}}")
                break
    _plain_tables(main)
    converter = MarkdownConverter(
        heading_style="ATX",
        strip=["a", "img"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    )
    return str(converter.convert_soup(main))


def _plain_tables(main: Any) -> None:
    """Tables as Markdown can write them: none within another, no bar in a cell, what spans rows in each of them."""
    for inner in main.select("table table"):
        inner.replace_with(inner.get_text(" ", strip=True))
    for bar in main.find_all(string=lambda text: "|" in text):
        if bar.find_parent(["td", "th"]):
            bar.replace_with(bar.replace("|", "/"))
    copied = 0
    for table in main.select("table"):
        for row, below in pairwise(table.find_all("tr")):
            copied += _spread(row, below) if row.parent is below.parent else 0
            if copied > COPIED:
                raise Unreadable("has table cells that span too many rows")


def _spread(row: Any, below: Any) -> int:
    """Copy cells that span rows into the row below; how much that is, a cell counting as a hundred letters."""
    later = deque(below.find_all(["td", "th"], recursive=False))
    column = at = copied = 0
    for cell in row.find_all(["td", "th"], recursive=False):
        rows = _span(cell, "rowspan")
        if rows > 1:
            while later and at < column:
                at += _span(later.popleft(), "colspan")
            again = copy(cell)
            again["rowspan"] = str(rows - 1)
            if later:
                later[0].insert_before(again)
            else:
                below.append(again)
            at += _span(cell, "colspan")
            copied += 100 + len(cell.get_text())
        column += _span(cell, "colspan")
    return copied


def _span(cell: Any, name: str) -> int:
    said = str(cell.get(name, "")).strip()
    return int(said) if re.fullmatch(r"[1-9]\d{0,3}", said) else 1


def pdf(path: Path) -> str:
    """Pages in order; the outline's titles become headings where they stand."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        raise Unreadable(f"is no PDF that can be opened ({error})") from None
    with document:
        pages = [page.get_textpage().get_text_bounded().splitlines() for page in document]
        outline: dict[int, list[tuple[int, str]]] = {}
        for bookmark in document.get_toc():
            place = bookmark.get_dest()
            if place is not None:
                outline.setdefault(place.get_index(), []).append((bookmark.level + 1, bookmark.get_title()))
    if not any(line.strip() for page in pages for line in page):
        raise Unreadable("has no text layer (a scan?)")
    edges = Counter(edge for page in pages for edge in {_bare(line) for line in page[:1] + page[-1:]})
    often = max(3, REPEATED * len(pages))
    return "\n".join(_page(number, page, outline.get(number, []), edges, often) for number, page in enumerate(pages))


def _page(number: int, lines: list[str], titles: list[tuple[int, str]], edges: Counter[str], often: float) -> str:
    anchor = f"{{#page={number + 1}}}"
    last = len(lines) - 1
    kept = [line for i, line in enumerate(lines) if not _furniture(line, edges if i in (0, last) else None, often)]
    heads = [f"\n{'#' * min(level, 6)} {title} {anchor}\n" for level, title in titles]
    out, done, i = [anchor], 0, 0
    while i < len(kept):
        # A long title wraps.
        ends = (i + 3, i + 2, i + 1)
        found = ((n, end) for n in range(done, len(titles)) for end in ends if _same(kept[i:end], titles[n][1]))
        n, end = next(found, (-1, i + 1))
        # A title that stands nowhere as a line (an image, another alphabet) comes before the next one that does.
        # pdfium marks a word that is broken at a line's end.
        out += heads[done : n + 1] if n >= 0 else [escaped(kept[i].replace("\ufffe", "").replace("\u00ad", ""))]
        done, i = max(done, n + 1), end
    return "\n".join([*out, *heads[done:]] if done else [*heads, *out])


def _same(lines: list[str], title: str) -> bool:
    line = " ".join(lines).strip()
    return bool({_bare(line), _bare(NUMBER.sub("", line))} & {_bare(title), _bare(NUMBER.sub("", title))} - {""})


def _furniture(line: str, edges: Counter[str] | None, often: float) -> bool:
    """Running heads and page numbers, which only stand at a page's edge; lines of a table of contents."""
    if edges is None:
        return bool(LEADERS.search(line[-200:]))
    often = 2 if PAGED.search(line.strip()) else often
    return line.strip().isdigit() or (bool(_bare(line)) and edges[_bare(line)] > often)


def _bare(line: str) -> str:
    return "".join(c for c in line.casefold() if c.isalpha())


def docx(path: Path) -> str:
    import docx as library
    from docx.table import Table

    check_zip(path)
    out = []
    for item in library.Document(str(path)).iter_inner_content():
        if isinstance(item, Table):
            out.append(table([cell.text for cell in row.cells] for row in item.rows))
            continue
        style = (item.style.name or "") if item.style is not None else ""
        level = 1 if style == "Title" else int(style[8:]) + 1 if re.fullmatch(r"Heading \d", style) else 0
        out.append(f"{'#' * min(level, 6)} {item.text}" if level and item.text.strip() else escaped(item.text))
    return "\n\n".join(out)


def pptx(path: Path) -> str:
    import pptx as library

    check_zip(path)
    out = []
    for number, slide in enumerate(library.Presentation(str(path)).slides, 1):
        title = slide.shapes.title
        name = title.text_frame.text.strip() if title is not None else ""
        out.append(f"# {' '.join(name.split()) or f'Slide {number}'} {{#slide={number}}}")
        for shape in _shapes(slide.shapes):
            if shape.has_table:
                out.append(table([cell.text for cell in row.cells] for row in shape.table.rows))
            elif shape.has_text_frame and shape != title:
                out.append(escaped(shape.text_frame.text))
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            out.append(escaped(slide.notes_slide.notes_text_frame.text))
    return "\n\n".join(out)


def _shapes(shapes: Iterable[Any]) -> Iterator[Any]:
    """Those in groups too."""
    for shape in shapes:
        yield from _shapes(shape.shapes) if hasattr(shape, "shapes") else [shape]


def escaped(text: str) -> str:
    """Text that is not Markdown: a shell's root prompt is no heading."""
    return re.sub(r"^(?=\s*(?:#{1,6}\s|```|~~~|(?:=+|-{3,})\s*$))", r"\\", text, flags=re.M)


def table(rows: Iterable[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(" ".join(cell.split()).replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join([*lines[:1], "|" + "---|" * lines[0].count(" | ") + "---|", *lines[1:]]) if lines else ""


READERS: dict[str, Callable[[Path], str]] = {
    ".md": text,
    ".markdown": text,
    ".txt": text,
    ".html": html,
    ".htm": html,
    ".xhtml": html,
    ".pdf": pdf,
    ".docx": docx,
    ".pptx": pptx,
}
