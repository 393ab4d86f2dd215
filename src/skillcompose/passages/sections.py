"""Markdown and plain text -> sections: a path of headings, the text below it, and where in the document it stands."""

import re
from dataclasses import dataclass, field

HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
ANCHOR = re.compile(r"\s*\{#([^}\s]+)\}\s*$")


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
    trail: list[tuple[int, str]] = []
    fence = ""
    for line in text.splitlines():
        mark = re.match(r"\s*(```|~~~)", line)
        if mark:
            fence = "" if fence == mark.group(1) else fence or mark.group(1)
        heading = None if fence else HEADING.match(line)
        anchor = None if fence else ANCHOR.search(heading.group(2) if heading else line)
        if heading:
            title = ANCHOR.sub("", heading.group(2)).strip()
            level = len(heading.group(1))
            trail = [(depth, other) for depth, other in trail if depth < level] + [(level, title or name)]
            marks = [(0, anchor.group(1))] if anchor else []
            found.append(Section([title for _, title in trail], marks=marks))
        elif anchor and not line[: anchor.start()].strip():
            offset = len(found[-1].text) if found[-1].text.strip() else 0
            found[-1].marks.append((offset, anchor.group(1)))
        else:
            found[-1].text += line + "\n"
    return [section for section in found if section.text.strip()]
