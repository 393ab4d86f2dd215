"""Names that mean the same row: "Birch Clinics Ltd." and "birch clinics", across tables and documents.

Conservative and visible: names are linked when they differ in case, accents, punctuation or legal form only, or when
the recipe says so; a name that could be two rows is linked to none. Every link is written down with its reason.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from skillcompose import prompts

# The same names come again and again, and a table may have a hundred thousand of them.
normalise = lru_cache(1 << 18)(prompts.normalise)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


LEGAL = _set(
    "ag bv co company corp corporation gmbh inc incorporated kg limited llc llp ltd nv oy plc pte pty sa sarl se "
    "spa srl"
)
LETTERS = 3  # a name of fewer is not compared loosely: C, C++ and C# are three things
SHARE = 0.5  # of a column's values must be names, before the others are taken for names that are spelled differently


def loose(name: str) -> str:
    """Without case, accents, punctuation and legal form; empty where too little is left."""
    letters = name.casefold().replace("&", " and ")
    if not letters.isascii():
        letters = "".join(c for c in unicodedata.normalize("NFKD", letters) if not unicodedata.combining(c))
    words = re.findall(r"[^\W_]+", letters)
    while len(words) > 1 and words[-1] in LEGAL:
        words.pop()
    return " ".join(words) if sum(c.isalpha() for word in words for c in word) >= LETTERS else ""


def spellings(name: str, aliases: Mapping[str, Sequence[str]]) -> set[str]:
    """A name in each form that linking takes for the same one; `aliases` by normalised name."""
    names = {name, *aliases.get(normalise(name), ())}
    return {normalise(one) for one in names} | set(filter(None, map(loose, names)))


def spelled(text: str) -> str:
    """A text in the forms in which `spellings` stand in it."""
    return f"{prompts.normalise(text)}\n{loose(text)}"


class Entities:
    """The rows of all tables by name.

    `links` says what was linked and why, `ambiguous` which names could be several rows.
    """

    def __init__(self, keys: Mapping[str, Iterable[str]], aliases: Mapping[str, Sequence[str]]) -> None:
        """`keys` are the row names by table: the first table's spelling stands for an entity."""
        self.links: list[dict[str, str]] = []
        self.ambiguous: dict[str, list[str]] = {}
        self._names: dict[str, str] = {}
        """Normalised name -> entity, of rows and of what was linked to them."""
        self._alike: dict[str, list[str]] = defaultdict(list)
        self._waiting: list[str] = []
        """Entities that are not in `_alike` yet: most tables need none of it."""
        self._other = {normalise(alias): entity for entity, others in aliases.items() for alias in others}
        self._spelling: dict[str, str] = {}
        for table, names in keys.items():
            found: dict[str, str] = {}
            for name in names:
                found.setdefault(normalise(name), name)
            found.pop("", None)
            new = [name for normal, name in found.items() if normal not in self._names]
            own = Counter(loose(name) for name in found.values()) if self._names else Counter[str]()
            for name in new if self._names or self._other else ():
                # Two rows of one table are two things, however alike they are spelled.
                alone = own[loose(name)] == 1 or normalise(name) in self._other
                entity, why = self._guess(name) if alone else (None, "")
                if entity:
                    self._link(name, entity, f"key of {table}", why)
            for name in new:
                if normalise(name) not in self._spelling:
                    self._names[normalise(name)] = name
                    self._waiting.append(name)

    def of(self, name: str) -> str:
        """The spelling of the entity that a name is or was linked to; the name as it is where there is none."""
        return self._names.get(normalise(name), name)

    def link(self, names: Iterable[str], where: str, certain: bool = False) -> None:
        """Link the names of a column that are spelled otherwise than their rows.

        Unless it is `certain` that they name rows, only where most of the column's names do.
        """
        distinct = {normalise(name): name for name in names if normalise(name)}
        unknown = {normal: name for normal, name in distinct.items() if normal not in self._names}
        guesses = {normal: self._guess(name) for normal, name in unknown.items()}
        named = len(distinct) - len(unknown) + sum(entity is not None for entity, _ in guesses.values())
        certain = certain or (bool(distinct) and named >= SHARE * len(distinct))
        for normal, (entity, why) in guesses.items():
            if entity and (certain or normal in self._other):
                self._link(unknown[normal], entity, where, why)
            elif certain and len(alike := self._spelled_like(unknown[normal])) > 1:
                self.ambiguous[unknown[normal]] = alike

    @property
    def spellings(self) -> dict[str, str]:
        """Normalised name -> the spelling that stands for it, of everything that was linked."""
        return dict(sorted(self._spelling.items()))

    def _guess(self, name: str) -> tuple[str | None, str]:
        if normalise(name) in self._other:
            entity = self._other[normalise(name)]
            return self._names.get(normalise(entity), entity), "an alias of the recipe"
        alike = self._spelled_like(name)
        return (alike[0], "differs in case, accents, punctuation or legal form") if len(alike) == 1 else (None, "")

    def _spelled_like(self, name: str) -> list[str]:
        for entity in self._waiting:
            self._alike[loose(entity)].append(entity)
        self._waiting = []
        return self._alike.get(loose(name), []) if loose(name) else []

    def _link(self, name: str, entity: str, where: str, why: str) -> None:
        self._names[normalise(name)] = self._spelling[normalise(name)] = entity
        self.links.append({"name": name, "entity": entity, "where": where, "why": why})
