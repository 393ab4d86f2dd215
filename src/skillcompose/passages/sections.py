"""Markdown and plain text -> sections: a path of headings, the text below it, and where in the document it stands."""

import re
from dataclasses import dataclass, field

HEADING = re.compile(r"^(#{1,6})\s+(\S.*)$")
ANCHOR = re.compile(r"\{#([^{}\s]+)\}$")


@dataclass
class Section:
    """`marks` are (offset in the text, anchor): what stands behind an offset is at its anchor."""

    trail: list[str]
    text: str = ""
    marks: list[tuple[int, str]] = field(default_factory=list)

    def anchor_at(self, offset: int) -> str:
        return next((anchor for start, anchor in reversed(self.marks) if start <= offset), "")


def sections(text: str, name: str) -> list[Section]:
    """Sections with text in it; `name` heads what stands before the first heading.

    Headings inside code fences are text. `{#anchor}` behind a heading, or alone in a line, is where it stands.
    """
    found = [Section([name])]
    lines: list[str] = []
    length = 0
    trail: list[tuple[int, str]] = []
    fence = ""
    for line in [*text.splitlines(), "# end"]:
        mark = re.match(r"\s*(```|~~~)", line)
        if mark:
            fence = "" if fence == mark.group(1) else fence or mark.group(1)
        heading = None if fence else HEADING.match(line)
        said = (heading.group(2) if heading else line).rstrip()
        anchor = None if fence or "{#" not in said else ANCHOR.search(said)
        if anchor:
            said = said[: anchor.start()].rstrip()
        if heading:
            found[-1].text = "\n".join(lines)
            lines, length = [], 0
            title = said.rstrip("#").rstrip()
            level = len(heading.group(1))
            trail = [(depth, other) for depth, other in trail if depth < level] + [(level, title or name)]
            marks = [(0, anchor.group(1))] if anchor else []
            found.append(Section([title for _, title in trail], marks=marks))
        elif anchor and not said:
            found[-1].marks.append((length if any(map(str.strip, lines)) else 0, anchor.group(1)))
        else:
            lines.append(line)
            length += len(line) + 1
    if fence:  # never closed: what follows it is text all the same
        found[-1].text = "\n".join(lines[:-1])
    return [section for section in found if section.text.strip()]
