"""Markdown and plain text -> sections: a path of headings, the text below it, and where in the document it stands."""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

HEADING = re.compile(r"^(#{1,6})\s+(\S.*)$")
ANCHOR = re.compile(r"\{#([^{}\s]+)\}$")
FENCE = re.compile(r"\s*(`{3,}(?!.*`)|~{3,})(.*)")
UNDERLINE = re.compile(r" {0,3}(=+|-{3,})\s*")
NO_PARAGRAPH = re.compile(r"\s{4}|\s*([#>|<]|```|~~~|!\[|[-*+]\s|\d+[.)]\s)|.*(\||:\s)")
"""What an underline below makes no heading of: lists, tables, the end of a fence, HTML, and fields above a rule."""


@dataclass
class Section:
    """`marks` are (offset in the text, anchor): what stands behind an offset is at its anchor. `line` is that of the
    text's first line; `matter` what front matter says, in the section that it makes."""

    trail: list[str]
    text: str = ""
    marks: list[tuple[int, str]] = field(default_factory=list)
    line: int = 1
    matter: dict[str, Any] = field(default_factory=dict)

    def anchor_at(self, offset: int) -> str:
        return next((anchor for start, anchor in reversed(self.marks) if start <= offset), "")


def sections(text: str, name: str) -> list[Section]:
    """Sections with text in it; `name` heads what stands before the first heading.

    Headings inside code fences are text. `{#anchor}` behind a heading, or alone in a line, is where it stands. Front
    matter is a section under the document's title: the one that it gives, or the first heading.
    """
    matter, after = front_matter(text)
    said_so = text.splitlines()[1 : after - 1]
    found = [Section([name], "\n".join(said_so), line=2, matter=matter)] if matter else []
    found.append(Section([name], line=after + 1))
    lines: list[str] = []
    length = 0
    trail: list[tuple[int, str]] = []
    fence = ""
    for number, line in enumerate([*_marked(text.splitlines()[after:]), "# end"], after + 1):
        fence = fence_behind(line, fence)
        heading = None if fence else HEADING.match(line)
        said = (heading.group(2) if heading else line).rstrip()
        anchor = None if fence or "{#" not in said else ANCHOR.search(said)
        if anchor:
            said = said[: anchor.start()].rstrip()
        if heading:
            found[-1].text = "\n".join(lines)
            lines, length = [], 0
            title = plain(said.rstrip("#"))
            level = len(heading.group(1))
            trail = [(depth, other) for depth, other in trail if depth < level] + [(level, title or name)]
            marks = [(0, anchor.group(1))] if anchor else []
            found.append(Section([title for _, title in trail], marks=marks, line=number + 1))
        elif anchor and not said:
            found[-1].marks.append((length if any(map(str.strip, lines)) else 0, anchor.group(1)))
        else:
            lines.append(line)
            length += len(line) + 1
    if fence:  # never closed: what follows it is text all the same
        found[-1].text = "\n".join(lines[:-1])
    if matter:
        headings = [section.trail[-1] for section in found[2:] if section.trail != ["end"]]
        found[0].trail = [plain(str(matter.get("title") or "")) or next(iter(headings), name)]
    return [section for section in found if section.text.strip()]


def _marked(lines: list[str]) -> list[str]:
    """Underlined headings as those with marks; every line stays where it is."""
    fence = ""
    for i, line in enumerate(lines):
        fence = fence_behind(line, fence)
        found = None if fence or not i else UNDERLINE.fullmatch(line)
        alone = found and lines[i - 1].strip() and (i == 1 or not lines[i - 2].strip())
        if found and alone and not NO_PARAGRAPH.match(lines[i - 1]):
            lines[i - 1 : i + 1] = [f"{'#' if '=' in found.group(1) else '##'} {lines[i - 1].strip()}", ""]
    return lines


def fence_behind(line: str, fence: str) -> str:
    """The mark of the code fence that is open behind a line; `fence` is open before it."""
    found = FENCE.match(line)
    if not found:
        return fence
    mark, said = found.groups()
    return mark if not fence else "" if mark.startswith(fence) and not said.strip() else fence


def plain(text: str) -> str:
    """Without Markdown's marks: `**[Ann](ann.md)**` is Ann."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`|\\$", "", text.strip())
    for _ in range(2):  # ***both***
        text = re.sub(r"(?<!\w)(\*\*|__|\*|_)(?=\S)(.+?)(?<=\S)\1(?!\w)", r"\2", text)
    return " ".join(re.sub(r"\\([!-/:-@\[\]-`{-~])", r"\1", text).split())


class _Plain(yaml.BaseLoader):
    """All scalars as text. No aliases: some bytes of them are gigabytes of text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def front_matter(text: str) -> tuple[dict[str, Any], int]:
    """What stands between `---` lines at a document's beginning, all scalars as text, and how many lines that takes."""
    found = re.match(r"---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|$)", text, re.S)
    try:
        # It keeps `yes`, 1.10 and dates as they are written.
        matter = yaml.load(found.group(1), _Plain) if found else None
    except yaml.YAMLError:
        matter = None
    return (matter, found.group().rstrip("\n").count("\n") + 1) if found and isinstance(matter, dict) else ({}, 0)
