"""Passage search: inner product of embeddings (FAISS), alone or fused with BM25 by reciprocal rank."""

import logging
from pathlib import Path
from typing import Any

import bm25s
import faiss
import numpy as np
from sentence_transformers import SentenceTransformer

from skillcompose.builtin import resolve
from skillcompose.errors import RunError
from skillcompose.index.vectors import build_index, read_index
from skillcompose.machine import device, use_cores
from skillcompose.models import fingerprint, quiet_libraries
from skillcompose.progress import Progress
from skillcompose.run import file_digest
from skillcompose.types import Passage, ScoredPassage, read_json, read_jsonl, write_json, write_jsonl

logging.getLogger("bm25s").setLevel(logging.WARNING)
CANDIDATES = 50
RRF_K = 60  # the constant of the reciprocal-rank-fusion paper (Cormack et al., 2009)


class Retriever:
    """Passages, their vectors and an embedder. `search` is the whole protocol."""

    def __init__(
        self,
        passages: list[Passage],
        index: faiss.Index,
        embedder: SentenceTransformer,
        mode: str,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.passages, self.about = passages, about or {}
        self.index = index
        self.embedder = embedder
        self.mode = mode
        self.lexical = bm25s.BM25() if mode == "hybrid" else None
        if self.lexical is not None:
            self.lexical.index(words([text(passage) for passage in passages]), show_progress=False)

    @classmethod
    def build(cls, passages: list[Passage], embedder: str, mode: str, progress: Progress | None = None) -> "Retriever":
        model = load_embedder(embedder)
        vectors = embed(model, [text(passage) for passage in passages], progress)
        index, about = build_index(vectors)
        return cls(passages, index, model, mode, about)

    def save(self, folder: Path, embedder_name: str) -> None:
        """`passages.jsonl`, `index.faiss`, and `index.json` with the hash that `load` checks."""
        write_jsonl(folder / "passages.jsonl", self.passages)
        faiss.write_index(self.index, str(folder / "index.faiss"))
        found = fingerprint(resolve(embedder_name)) if embedder_name.startswith("builtin:") else embedder_name
        write_json(
            folder / "index.json",
            {
                "embedder": embedder_name,
                "embedder_fingerprint": found,
                "search": self.mode,
                "passages": len(self.passages),
                "vectors": self.about,
                "sha256": file_digest(folder / "index.faiss"),
            },
        )

    @classmethod
    def load(cls, folder: Path, beside: Path = Path()) -> "Retriever":
        """Read a saved index.

        Raises:
            RunError: The file is not the one that was written. FAISS parses hostile files unsafely, so this is
                checked first.
        """
        about = read_json(folder / "index.json")
        if file_digest(folder / "index.faiss") != about["sha256"]:
            raise RunError(f"{folder / 'index.faiss'} is not the index that was built here; run the index stage again")
        index = read_index(folder / "index.faiss")
        passages = read_jsonl(folder / "passages.jsonl", Passage)
        embedder = load_embedder(resolve(about["embedder"], beside))
        return cls(passages, index, embedder, about["search"], about.get("vectors"))

    def search(self, queries: list[str], k: int) -> list[list[ScoredPassage]]:
        """The best `k` passages of each query, best first; fewer when the index is smaller.

        Scores are cosine similarities (dense), or summed reciprocal ranks (hybrid).
        """
        if not queries:
            return []
        depth = min(len(self.passages), CANDIDATES if self.lexical is not None else k)
        scores, found = self.index.search(embed(self.embedder, queries), depth)
        if self.lexical is None:
            ranked = [
                list(zip(row.tolist(), values.tolist(), strict=True)) for row, values in zip(found, scores, strict=True)
            ]
        else:
            lexical, _ = self.lexical.retrieve(words(queries), k=depth, show_progress=False)
            ranked = [_fuse(near.tolist(), alike.tolist()) for near, alike in zip(found, lexical, strict=True)]
        return [[ScoredPassage(self.passages[i], score) for i, score in row[:k] if i >= 0] for row in ranked]


def _fuse(*rankings: list[int]) -> list[tuple[int, float]]:
    """Reciprocal rank fusion; ties are broken by position, so that the order never depends on the machine."""
    total: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking):
            total[item] = total.get(item, 0.0) + 1 / (RRF_K + rank + 1)
    return sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))


def words(texts: list[str]) -> list[list[str]]:
    tokens: list[list[str]] = bm25s.tokenize(texts, stopwords=[], return_ids=False, show_progress=False)
    # BM25 of a query without a known word is undefined: keep at least one token.
    return [row or ["-"] for row in tokens]


def text(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}"


def load_embedder(folder: str) -> SentenceTransformer:
    quiet_libraries()
    use_cores()
    return SentenceTransformer(folder, device=str(device()), trust_remote_code=False)


def embed(model: SentenceTransformer, texts: list[str], progress: Progress | None = None) -> np.ndarray:
    """Unit vectors, float32, one row a text."""
    batches = [texts[i : i + 64] for i in range(0, len(texts), 64)]
    steps = progress.each(batches, "embedding passages", len(batches)) if progress else batches
    rows = [model.encode(batch, normalize_embeddings=True, show_progress_bar=False) for batch in steps]
    return np.concatenate(rows).astype(np.float32)
