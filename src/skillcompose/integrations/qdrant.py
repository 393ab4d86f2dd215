"""Qdrant: an existing collection as the retriever of a policy."""

from collections.abc import Callable, Sequence
from typing import Any

from skillcompose.errors import IntegrationError
from skillcompose.types import Passage, ScoredPassage

try:
    from qdrant_client import QdrantClient
except ImportError as error:
    raise IntegrationError(f'Qdrant needs {error.name}: pip install "skillcompose[qdrant]"') from error

Embed = Callable[[list[str]], Sequence[Sequence[float]]]


class QdrantSearch:
    """Dense search in one collection; `Policy.from_run(run, retriever=QdrantSearch(...))` reads what it finds.

    Args:
        client: Embedded, local or remote.
        collection: Its name.
        embed: Queries to vectors, with the model that the collection was filled with.
        fields: Where a point's payload holds a passage's `text`, `title`, `source` and `position`; the same names when
            not given.
    """

    def __init__(
        self, client: QdrantClient, collection: str, embed: Embed, fields: dict[str, str] | None = None
    ) -> None:
        self.client, self.collection, self.embed = client, collection, embed
        self.fields = {name: name for name in ("text", "title", "source", "position")} | (fields or {})

    def search(self, queries: list[str], k: int) -> list[list[ScoredPassage]]:
        found = []
        for vector in self.embed(queries):
            points = self.client.query_points(self.collection, query=list(vector), limit=k, with_payload=True).points
            found.append([ScoredPassage(self._passage(point), float(point.score)) for point in points])
        return found

    def _passage(self, point: Any) -> Passage:
        payload = {name: value for name, value in (point.payload or {}).items() if value is not None}
        known = {name: str(payload.get(field, "")) for name, field in self.fields.items()}
        if not known["text"]:
            raise IntegrationError(
                f"point {point.id} of {self.collection!r} has no text in its field {self.fields['text']!r}; "
                "name the right one in `fields`"
            )
        return Passage(str(point.id), **known | {"title": known["title"] or str(point.id)})
