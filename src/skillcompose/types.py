"""The nouns of the pipeline: frozen dataclasses that are written as JSONL, one object a line."""

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

Kind = TypeVar("Kind")


class Skill(StrEnum):
    """Where the knowledge that answers a question is: in the weights, in the passages, or half in each."""

    PARAMETRIC = "parametric"
    CONTEXTUAL = "contextual"
    COMPLEMENTARY = "complementary"


class Level(StrEnum):
    """How far a complementary question is from those that RL trained on (see README, "Levels")."""

    IID = "iid"
    COMPOSITION = "composition"
    ZERO_SHOT = "zero_shot"


@dataclass(frozen=True)
class Passage:
    """A piece of a document. `source` and `position` are its citation: file in the knowledge base and headings.

    `anchor` is what a link to the place has behind the `#` (an id, `page=12`); empty where there is none.
    """

    id: str
    title: str
    text: str
    source: str
    position: str
    anchor: str = ""


@dataclass(frozen=True)
class ScoredPassage:
    passage: Passage
    score: float


@dataclass(frozen=True)
class Fact:
    """`subject` -- `relation` -> `object`; `key` is the row it comes from, `skill` where it was placed."""

    id: str
    subject: str
    relation: str
    object: str
    skill: Skill
    key: str
    source: str


@dataclass(frozen=True)
class Question:
    """A question, its gold answer and gold reasoning (`completion`), and the passages it is asked with.

    `path` joins the relations walked with " > "; `subject` is the entity that the question starts from,
    `bridges` those between two hops; `seen` says whether a complementary training question passes through one of
    them; `retrieved` whether the supporting passage is among `passages`.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    completion: str
    skill: Skill
    path: str
    fact_ids: tuple[str, ...]
    subject: str = ""
    passages: tuple[Passage, ...] = ()
    level: Level | None = None
    bridges: tuple[str, ...] = ()
    seen: bool = False
    retrieved: bool = True

    @property
    def hops(self) -> int:
        return len(self.fact_ids)

    @property
    def named(self) -> bool:
        """One fact, said behind its subject: a row of what follows the adapters, not of theirs."""
        return self.hops == 1 and bool(self.bridges)


@dataclass(frozen=True)
class Hop:
    """One sentence of the reasoning; `passage` numbers the passage that says it. None where none does: then it comes
    from the weights, whether known or invented."""

    text: str
    passage: int | None


@dataclass(frozen=True)
class Answer:
    """What `Policy.answer` returns: `text` is empty when the completion has no readable final line.

    `confidence` is the probability that the policy gives to the whole completion; it ranks answers, and is no share of
    right ones (`skillcompose eval` prints how many are right above some values).
    """

    text: str
    hops: tuple[Hop, ...]
    passages: tuple[ScoredPassage, ...]
    prompt: str
    completion: str
    confidence: float = field(default=0.0, compare=False)  # rounded otherwise beside other questions


def write_text(path: Path, text: str) -> None:
    """Write aside and rename: a reader never sees half a file."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def readable(folder: Path, like: Path) -> None:
    """Give the weights in a folder the mode of another file: safetensors writes them for their user alone."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(like.stat().st_mode & 0o777)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Dataclasses, or what is JSON already."""
    rows = (record if isinstance(record, dict) else dataclasses.asdict(record) for record in records)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path, kind: type[Kind]) -> list[Kind]:
    reader = _reader(cast(Any, kind))
    with path.open(encoding="utf-8") as file:
        return [reader.validate_json(line) for line in file]


@cache
def _reader(kind: Any) -> Any:
    from pydantic import TypeAdapter  # the command line's help does not wait for it

    return TypeAdapter(kind)
