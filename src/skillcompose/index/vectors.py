"""The FAISS index for so many vectors: exact while that is fast, then inverted lists whose recall is measured."""

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np

EXACT = 100_000
"""Up to so many vectors every one is compared: some milliseconds a query."""
RECALL = 0.97
QUERIES, NEIGHBOURS = 200, 10
TRAINED, ROUNDS = 40, 10  # vectors for each list that k-means sees, and how often
SEED = 0


def build_index(vectors: np.ndarray) -> tuple[faiss.Index, dict[str, Any]]:
    """An inner-product index over unit vectors (N, d), float32, and what `index.json` says of it.

    Above `EXACT` vectors: 8-bit components in about 2 sqrt(N) inverted lists, of which a query visits the smallest
    power of two that finds 97 % of the exact ten nearest neighbours of vectors that are drawn from the index and moved.
    """
    count, width = vectors.shape
    if count <= EXACT:
        flat = faiss.IndexFlatIP(width)
        flat.add(vectors)
        return flat, {"kind": "exact"}
    rng = np.random.default_rng(SEED)
    lists = 2 ** round(math.log2(2 * math.sqrt(count)))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter = ROUNDS
    index.train(vectors[rng.choice(count, min(count, TRAINED * lists), replace=False)])
    index.add(vectors)
    queries = moved(vectors[rng.choice(count, QUERIES, replace=False)], rng)
    _, wanted = faiss.knn(queries, vectors, NEIGHBOURS, metric=faiss.METRIC_INNER_PRODUCT)
    for probes in (2**i for i in range(int(math.log2(lists)) + 1)):
        index.nprobe = probes
        recall = recall_of(index, queries, wanted)
        if recall >= RECALL:
            break
    return index, {"kind": f"{lists} inverted lists, 8 bits", "visited": index.nprobe, "recall_at_10": round(recall, 4)}


def moved(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors near the given ones: a query is no vector of the index."""
    noise = rng.standard_normal(vectors.shape).astype(np.float32)
    shifted = vectors + 0.3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.ascontiguousarray(shifted / np.linalg.norm(shifted, axis=1, keepdims=True), np.float32)


def recall_of(index: faiss.Index, queries: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the wanted neighbours (Q, k) that the index finds."""
    _, found = index.search(queries, wanted.shape[1])
    hits = sum(len(set(row) & set(right)) for row, right in zip(found.tolist(), wanted.tolist(), strict=True))
    return hits / wanted.size


def read_index(path: Path) -> faiss.Index:
    """Mapped into memory, not copied: pages are read when a search needs them. Check the file's hash first."""
    flags = faiss.IO_FLAG_MMAP_IFC if faiss_kind(path) == b"IxFI" else faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
    return faiss.read_index(str(path), flags)


def faiss_kind(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)
