"""Progress bars with a time estimate, on stderr; in a log a line every half minute and one at the end, of what takes
longer than a moment."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
IN_LOG = {"mininterval": 30, "delay": 5}  # seconds


class Log:
    """Stderr that is no terminal: it has no cursor that goes back, so each time is a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(f"{text.strip()}\n")

    def flush(self) -> None:
        sys.stderr.flush()


class Progress:
    """Bars of one stage; `title` stands before each, and processes that run side by side have a `row` each."""

    def __init__(self, title: str = "", row: int = 0) -> None:
        self.title, self.row = title, row

    def bar(self, what: str, total: int, initial: int = 0) -> "tqdm[Any]":
        name = f"{self.title}: {what}" if self.title else what
        on_screen = {"position": self.row or None, "leave": False, "dynamic_ncols": True}
        shown = on_screen if sys.stderr.isatty() else {"file": Log(), **IN_LOG}
        return tqdm(total=total, initial=initial, desc=name, smoothing=0.1, **shown)

    def each(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        with self.bar(what, total) as bar:
            for item in items:
                yield item
                bar.update()
