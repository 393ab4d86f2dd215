"""The FAISS index for so many vectors: exact while that is fast, then a graph whose recall is measured."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

EXACT = 100_000
"""Up to so many vectors every one is compared: some milliseconds a query."""
LINKS, CANDIDATES, BREADTH = 32, 80, 2048  # of a vector in the graph; while it is built; of a search, at least
RECALL = 0.97
QUERIES, NEIGHBOURS = 200, 10
TRAINED = 100_000  # vectors that give each component its range
SEED = 0


def build_index(vectors: np.ndarray) -> tuple[faiss.Index, dict[str, Any]]:
    """An inner-product index over unit vectors (N, d), float32, and what `index.json` says of it.

    Above `EXACT` vectors: a graph of neighbours (HNSW) over 8-bit components. A search is made as broad as it takes to
    find 97 % of the exact ten nearest neighbours of vectors that are drawn from the index and moved as far away as a
    question is, or until broader ones find no more: what is left then is lost to the eight bits.
    """
    count, width = vectors.shape
    if count <= EXACT:
        flat = faiss.IndexFlatIP(width)
        flat.add(vectors)
        return flat, {"kind": "exact"}
    rng = np.random.default_rng(SEED)
    eight_bits: Any = faiss.ScalarQuantizer.QT_8bit  # FAISS declares another type for it
    index = faiss.IndexHNSWSQ(width, eight_bits, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = CANDIDATES
    index.train(vectors[rng.choice(count, min(count, TRAINED), replace=False)])
    index.add(vectors)
    queries = moved(vectors[rng.choice(count, QUERIES, replace=False)], rng)
    _, wanted = faiss.knn(queries, vectors, NEIGHBOURS, metric=faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch, before = BREADTH, 0.0
    while before < (recall := recall_of(index, queries, wanted)) < RECALL:
        index.hnsw.efSearch, before = 2 * index.hnsw.efSearch, recall
    return index, {"kind": "HNSW, 8 bits", "breadth": index.hnsw.efSearch, "recall_at_10": round(recall, 4)}


def moved(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors at a cosine of about 0.7 to the given ones: a query is no vector of the index."""
    noise = rng.standard_normal(vectors.shape).astype(np.float32)
    shifted = vectors + noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.ascontiguousarray(shifted / np.linalg.norm(shifted, axis=1, keepdims=True), np.float32)


def recall_of(index: faiss.Index, queries: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the wanted neighbours (Q, k) that the index finds."""
    _, found = index.search(queries, wanted.shape[1])
    hits = sum(len(set(row) & set(right)) for row, right in zip(found.tolist(), wanted.tolist(), strict=True))
    return hits / wanted.size


def read_index(path: Path) -> faiss.Index:
    """Mapped into memory, not copied: pages are read when a search needs them. Check the file's hash first."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def search_among(
    index: faiss.Index, queries: np.ndarray, depth: int, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and numbers (Q, depth) of the nearest among those `numbers`, -1 where there are too few.

    Each of them is compared: in a graph the way to what is allowed may lead over nothing that is.
    """
    plain = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index
    chosen = faiss.SearchParameters(sel=faiss.IDSelectorBatch(numbers))  # type: ignore[call-arg]
    found: tuple[np.ndarray, np.ndarray] = plain.search(queries, depth, params=chosen)
    return found
