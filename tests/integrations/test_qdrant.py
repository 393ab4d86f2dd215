"""An embedded Qdrant collection as the policy's retriever."""

from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models

import skillcompose
from skillcompose.errors import IntegrationError
from skillcompose.integrations.qdrant import QdrantSearch

TEXTS = {"abook": "abook needs mutt.", "mutt": "mutt is a mail reader."}


def embed(texts: list[str]) -> list[list[float]]:
    return [[float("abook" in text), float("mail" in text), 0.1] for text in texts]


def test_a_policy_reads_what_a_collection_finds(finished_run: Path, tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path / "store"))
    client.create_collection("kb", models.VectorParams(size=3, distance=models.Distance.COSINE))
    payloads = [{"body": text, "title": title, "source": "wiki"} for title, text in TEXTS.items()]
    vectors = embed(list(TEXTS.values()))
    client.upsert("kb", [models.PointStruct(id=i, vector=v, payload=payloads[i]) for i, v in enumerate(vectors)])
    search = QdrantSearch(client, "kb", embed, {"text": "body"})
    policy = skillcompose.Policy.from_run(finished_run, retriever=search)
    answer = policy.answer("Who owns what abook needs?")
    assert answer.passages[0].passage.title == "abook" and answer.passages[0].passage.source == "wiki"
    assert len(answer.passages) == 2
    client.set_payload("kb", {"text": None}, points=[0, 1])
    with pytest.raises(IntegrationError, match="name the right one in `fields`"):
        QdrantSearch(client, "kb", embed).search(["abook"], 1)
