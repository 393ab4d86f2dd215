"""Passage search: one ranking, or several fused by reciprocal rank, and perhaps read again by a cross-encoder."""

import fnmatch
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from scipy.sparse import load_npz, save_npz
from sentence_transformers import CrossEncoder

from skillcompose.builtin import resolve
from skillcompose.errors import RetrievalError, RunError
from skillcompose.index.rankings import (
    Allowed,
    Dense,
    Ranking,
    Sparse,
    Words,
    embed,
    expand,
    load_embedder,
    load_reranker,
    load_sparse,
)
from skillcompose.index.vectors import build_index, read_index
from skillcompose.progress import Progress
from skillcompose.run import file_digest
from skillcompose.sections import MODELS, Index
from skillcompose.types import Passage, ScoredPassage, read_json, read_jsonl, write_json, write_jsonl

logging.getLogger("bm25s").setLevel(logging.WARNING)
CANDIDATES = 50
"""Passages of each ranking that are fused."""
RRF_K = 2
"""What one ranking puts first comes among the first: at 60, as in the paper (Cormack et al., 2009), a passage in the
middle of every ranking beats the only one that has a rare code. Measured in benchmarks/knowledge/RESULTS.md."""
RERANKED = 20
"""Passages that a cross-encoder reads for each query."""
FIELDS = tuple(field.name for field in fields(Passage) if field.name != "text")


class Retriever:
    """Passages and what ranks them: `dense`, `words` (BM25), `sparse`. `search` is the whole protocol."""

    def __init__(
        self,
        passages: list[Passage],
        rankings: Mapping[str, Ranking],
        settings: Index,
        reranker: CrossEncoder | None = None,
    ) -> None:
        self.passages, self.rankings, self.settings, self.reranker = passages, dict(rankings), settings, reranker

    @classmethod
    def build(
        cls, passages: list[Passage], settings: Index, beside: Path = Path(), progress: Progress | None = None
    ) -> "Retriever":
        """Compute what the recipe's section names; folders in it start at `beside`."""
        texts = [text(passage) for passage in passages]
        model = load_embedder(resolve(settings.embedder, beside))
        rankings: dict[str, Ranking] = {"dense": Dense(model, *build_index(embed(model, texts, progress)))}
        if settings.search == "hybrid":
            rankings["words"] = Words(texts)
            if settings.sparse:
                expander = load_sparse(resolve(settings.sparse, beside))
                rankings["sparse"] = Sparse(expander, expand(expander, texts, progress))
        return cls(passages, rankings, settings, _reranker(settings, beside))

    def save(self, folder: Path) -> None:
        """`passages.jsonl`, the vectors, and `index.json` with the hashes that `load` checks."""
        write_jsonl(folder / "passages.jsonl", self.passages)
        about: dict[str, Any] = {"passages": len(self.passages)}
        about |= {name: getattr(self.settings, name) for name in ("search", *MODELS)}
        dense, sparse = self.rankings["dense"], self.rankings.get("sparse")
        assert isinstance(dense, Dense)
        faiss.write_index(dense.index, str(folder / "index.faiss"))
        files = ["index.faiss"]
        if isinstance(sparse, Sparse):
            save_npz(folder / "sparse.npz", sparse.vectors)
            files.append("sparse.npz")
        hashes = {name: file_digest(folder / name) for name in files}
        write_json(folder / "index.json", about | {"vectors": dense.about, "sha256": hashes})

    @classmethod
    def load(cls, folder: Path, beside: Path = Path()) -> "Retriever":
        """Read a saved index.

        Raises:
            RunError: A file is not the one that was written. FAISS parses hostile files unsafely, so this is checked
                first.
        """
        about = read_json(folder / "index.json")
        if not isinstance(about["sha256"], dict):
            raise RunError(f"{folder} was written by another version; run the index stage, or export, again")
        for name, digest in about["sha256"].items():
            if file_digest(folder / name) != digest:
                raise RunError(f"{folder / name} is not the index that was built here; run the index stage again")
        settings = Index(**{name: about[name] for name in ("search", *MODELS)})
        passages = read_jsonl(folder / "passages.jsonl", Passage)
        model = load_embedder(resolve(settings.embedder, beside))
        rankings: dict[str, Ranking] = {"dense": Dense(model, read_index(folder / "index.faiss"), about["vectors"])}
        if settings.search == "hybrid":
            rankings["words"] = Words([text(passage) for passage in passages])
            if settings.sparse:
                rankings["sparse"] = Sparse(
                    load_sparse(resolve(settings.sparse, beside)), load_npz(folder / "sparse.npz")
                )
        return cls(passages, rankings, settings, _reranker(settings, beside))

    def search(
        self, queries: list[str], k: int, where: Mapping[str, str] | None = None, by: Iterable[str] = ()
    ) -> list[list[ScoredPassage]]:
        """The best `k` passages of each query, best first; fewer when there are fewer, or none has a word of it.

        Args:
            queries: What is searched for.
            k: How many.
            where: Only passages whose fields match these patterns, `{"source": "policy/*"}`; `*` and `?` as in names
                of files, case counts.
            by: Only these rankings, all when empty. One alone keeps its own scores, several have summed reciprocal
                ranks; those of a cross-encoder, which all of them go through, are its own.

        Raises:
            RetrievalError: A pattern for something that is no field of a passage.
        """
        allowed = self._allowed(where or {})
        count = len(self.passages) if allowed is None else int(allowed.sum())
        if not queries or not count:
            return [[] for _ in queries]
        chosen = {name: self.rankings[name] for name in (by or self.rankings)}
        wanted = max(k, RERANKED) if self.reranker is not None and not by else k
        depth = min(count, wanted if len(chosen) == 1 else max(wanted, CANDIDATES))
        rows = {name: ranking.rank(queries, depth, allowed) for name, ranking in chosen.items()}
        ranked = next(iter(rows.values())) if len(rows) == 1 else fuse(rows)
        found = [[ScoredPassage(self.passages[i], score) for i, score in row[:wanted]] for row in ranked]
        if self.reranker is not None and not by:
            found = [reread(self.reranker, query, hits)[:k] for query, hits in zip(queries, found, strict=True)]
        return found

    def _allowed(self, where: Mapping[str, str]) -> Allowed:
        for name in where:
            if name not in FIELDS:
                raise RetrievalError(f"passages have no field {name!r} to choose by; there are {', '.join(FIELDS)}")
        if not where:
            return None
        # Not `fnmatchcase`: it keeps every pattern that it ever compiled.
        globs = {name: re.compile(fnmatch.translate(glob)) for name, glob in where.items()}
        return np.array([all(glob.match(getattr(p, name)) for name, glob in globs.items()) for p in self.passages])


def fuse(rows: Mapping[str, list[list[tuple[int, float]]]]) -> list[list[tuple[int, float]]]:
    """Reciprocal rank fusion of each query's rankings; ties are broken by position, not by the machine."""
    fused = []
    for rankings in zip(*rows.values(), strict=True):
        total: dict[int, float] = {}
        for ranking in rankings:
            for rank, (item, _) in enumerate(ranking, 1):
                total[item] = total.get(item, 0.0) + 1 / (RRF_K + rank)
        fused.append(sorted(total.items(), key=lambda pair: (-pair[1], pair[0])))
    return fused


def reread(model: CrossEncoder, query: str, hits: list[ScoredPassage]) -> list[ScoredPassage]:
    """The passages in the order of the cross-encoder's scores."""
    scores = model.predict([(query, text(hit.passage)) for hit in hits], show_progress_bar=False)
    read = [ScoredPassage(hit.passage, float(score)) for hit, score in zip(hits, scores, strict=True)]
    return sorted(read, key=lambda hit: -hit.score)


def text(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}"


def _reranker(settings: Index, beside: Path) -> CrossEncoder | None:
    return load_reranker(resolve(settings.rerank, beside)) if settings.rerank else None
