"""Progress bars with a time estimate, on stderr."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class Progress:
    """Bars of one stage; `title` stands before each, and processes that run side by side have a `row` each."""

    def __init__(self, title: str = "", row: int = 0) -> None:
        self.title, self.row = title, row

    def bar(self, what: str, total: int, initial: int = 0) -> "tqdm[Any]":
        name = f"{self.title}: {what}" if self.title else what
        place = self.row or None
        return tqdm(
            total=total, initial=initial, desc=name, position=place, leave=False, smoothing=0.1, dynamic_ncols=True
        )

    def each(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        with self.bar(what, total) as bar:
            for item in items:
                yield item
                bar.update()
