"""Invented names for training rows, so that nothing in them can be remembered."""

import itertools
import random
import re
from collections.abc import Callable, Iterable

from skillcompose.prompts import renaming

PART = re.compile(r"[^\W\d_]+|\d+")
REDRAWN = 10  # times in vain, until longer names are drawn


class Inventor:
    """Makes names that look like the knowledge base's own: the front of one name's part, the back of another's.

    Names of another kind (random letters) would teach to copy random letters; real ones are cut into other tokens.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self.names = {name.casefold() for name in names}
        self.real = {part.casefold() for name in names for part in PART.findall(name)}
        # Sorted, because the order of a set of strings changes from process to process.
        self.pieces = sorted(part for part in self.real if part.isalpha() and len(part) > 2) or ["abode", "mirth"]

    def rename(self, names: Iterable[str], rng: random.Random) -> Callable[[str], str]:
        """A function that replaces these names, wherever they stand as whole words, by invented ones.

        All names of a row must be given, distractors' too: one invented name among real ones would give the answer
        away. Equal parts get equal inventions, so that `httpd-mod-a` and `httpd-mod-b` stay as easy to confuse as
        they are. Different names stay different, and none becomes a real one, which `Server 7` would by chance.
        """
        olds = list(names)
        for tries in itertools.count():
            parts: dict[str, str] = {}

            def part(found: re.Match[str], parts: dict[str, str] = parts, more: int = tries // REDRAWN) -> str:
                old = found.group()
                return parts.setdefault(old.casefold(), self._invent(old, more, rng))

            new = {name: PART.sub(part, name) for name in olds}
            said = {name.casefold() for old, name in new.items() if PART.search(old)}
            distinct = len({name.casefold() for name in new.values()}) == len({name.casefold() for name in olds})
            if distinct and self.names.isdisjoint(said):
                return renaming(new)
        raise AssertionError  # names grow with the tries, so some are new

    def _invent(self, part: str, more: int, rng: random.Random) -> str:
        """`more`: so many digits, or pieces, than there usually are."""
        if part.isdigit():
            size = len(part) + more
            return str(rng.randrange(10 ** (size - 1), 10**size))
        word = ""
        while not word or word in self.real:
            front, back = rng.choice(self.pieces), rng.choice(self.pieces)
            word = front[: rng.randint(2, (len(front) + 3) // 2)] + back[len(back) // 2 :]
            word += "".join(rng.choice(self.pieces)[:2] for _ in range(more))
        return word.upper() if part.isupper() and len(part) > 1 else word.capitalize() if part[0].isupper() else word
