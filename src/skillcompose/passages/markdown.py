"""Markdown and plain text -> passages: one per section, long sections cut at paragraph or sentence ends."""

import re

from skillcompose.types import Passage

HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z])")


def read_document(text: str, source: str, max_words: int) -> list[Passage]:
    """Passages of one document.

    A passage's title is its nearest heading (the file's name before the first one), its position the path of
    headings that leads to it.
    """
    passages: list[Passage] = []
    for trail, body in sections(text, source.rsplit("/", 1)[-1].rsplit(".", 1)[0]):
        for piece in split(body, max_words):
            number = len(passages)
            passages.append(Passage(f"{source}#{number}", trail[-1], piece, source, " > ".join(trail)))
    return passages


def sections(text: str, name: str) -> list[tuple[list[str], str]]:
    """(path of headings, text) of every section with text; headings inside code fences are text."""
    found: list[tuple[list[str], str]] = []
    trail: list[tuple[int, str]] = []
    lines: list[str] = []
    fenced = False
    for line in [*text.splitlines(), "# "]:
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        heading = None if fenced else HEADING.match(line)
        if heading is None and line != "# ":
            lines.append(line)
            continue
        body = "\n".join(lines).strip()
        if body:
            found.append(([title for _, title in trail] or [name], body))
        lines = []
        if heading:
            level = len(heading.group(1))
            trail = [(depth, title) for depth, title in trail if depth < level] + [(level, heading.group(2))]
    return found


def split(text: str, max_words: int) -> list[str]:
    """Pieces of at most `max_words` words, cut between paragraphs, else sentences, else words."""
    if len(text.split()) <= max_words:
        return [text]
    parts = re.split(r"\n\s*\n", text)
    if len(parts) == 1:
        parts = SENTENCE_END.split(text)
    if len(parts) == 1:
        words = text.split()
        return [" ".join(words[i : i + max_words]) for i in range(0, len(words), max_words)]
    pieces: list[str] = []
    for part in parts:
        for piece in split(part, max_words):
            if pieces and len(pieces[-1].split()) + len(piece.split()) <= max_words:
                pieces[-1] += "\n\n" + piece
            else:
                pieces.append(piece)
    return pieces
