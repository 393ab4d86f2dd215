"""A test of retrieval that nobody wrote for it: every heading of HTML manuals is a query for its own section.

Numbering is stripped from the queries. Out of the passages go the headings themselves, every link whose text holds one,
every line that is one (contents lists), and pages that are an index. A heading that several sections share is one
query, and any of them is right; a heading without text of its own asks for what is below it. Documents in Markdown are
distractors.
"""

import re
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from bs4 import BeautifulSoup

from skillcompose.builtin import resolve
from skillcompose.passages.chunks import passages_of, splitter, without_copies
from skillcompose.passages.readers import html
from skillcompose.prompts import normalise
from skillcompose.types import Passage

NUMBERING = re.compile(r"^\s*(?:(?:chapter|appendix|section)\s+)?(?:[\dA-Z]{1,2}(?:\.\d+)*\.?\s+(?=\S))?", re.I)
INDEXES = ("genindex", "search")


def read(folder: Path, embedder: str) -> tuple[list[Passage], dict[str, set[str]], Counter[str]]:
    """Passages, query -> ids of the passages that are right, and what was counted on the way."""
    split = splitter(resolve(embedder), 200, 30)
    pages = [path for path in sorted(folder.rglob("*.html")) if path.stem not in INDEXES]
    soups = {path: BeautifulSoup(path.read_bytes(), "lxml") for path in pages}
    heads = [h for soup in soups.values() for h in soup.select("h1, h2, h3, h4, h5, h6")]
    headings = {bare(h.get_text(" ")) for h in heads} - {""}
    counts = Counter({"headings in the files": len(heads), "different headings": len(headings)})
    found: list[Passage] = []
    for path, soup in soups.items():
        counts["links removed"] += _without_links(soup, headings)
        found += passages_of(_text(soup), path.relative_to(folder).as_posix(), split)
    for path in sorted(folder.rglob("*.md")):
        found += passages_of(path.read_text(encoding="utf-8"), path.relative_to(folder).as_posix(), split)
    found, copies = without_copies(found)
    counts["copies"] = len(copies)
    own: dict[str, set[str]] = defaultdict(set)
    below: dict[str, set[str]] = defaultdict(set)
    kept = []
    for passage in found:
        manual = passage.source.endswith(".html")
        lines = passage.text.splitlines()
        left = [line for line in lines if bare(line) not in headings] if manual else lines
        counts["lines removed"] += len(lines) - len(left)
        if not (text := "\n".join(left).strip(" \n-*|")):
            continue
        kept.append(replace(passage, title="", text=text) if manual else passage)
        if manual:
            *above, last = map(bare, passage.position.split(" > "))
            own[last].add(passage.id)
            for name in above:
                below[name].add(passage.id)
    shown = {bare(h.get_text(" ")): query_of(h.get_text(" ")) for h in heads}
    asked = {shown[name]: own.get(name) or below[name] for name in sorted(headings) if own.get(name) or below.get(name)}
    counts["headings without any text"] = len(headings) - len(asked)
    return kept, asked, counts


def query_of(heading: str) -> str:
    return NUMBERING.sub("", " ".join(heading.replace("¶", " ").split())).strip()


def bare(text: str) -> str:
    """A heading or a line, as headings are compared: without numbering, marks and punctuation."""
    text = re.sub(r"[`*_\\|#]", "", text).strip(" -+•\t")
    return re.sub(r"\W+", " ", normalise(query_of(text))).strip()


def _without_links(soup: BeautifulSoup, headings: set[str]) -> int:
    """A link may name a heading of several words among others."""
    several = [f" {name} " for name in headings if " " in name]
    removed = 0
    for link in soup.select("a[href]"):
        if link.find_parent(re.compile("^h[1-6]$")) or link.decomposed:
            continue
        said = bare(link.get_text(" "))
        if said in headings or any(name in f" {said} " for name in several):
            link.decompose()
            removed += 1
    return removed


def _text(soup: BeautifulSoup) -> str:
    with tempfile.NamedTemporaryFile(suffix=".html") as file:
        file.write(str(soup).encode())
        file.flush()
        return html(Path(file.name))
