"""Search among a million vectors: milliseconds a query on one core, recall against exact search, memory-mapped.

    python benchmarks/knowledge/search.py --texts FOLDER        the claims `knowledge.search_1m_*`; needs 4 GiB

The vectors are made from the sentences of the manuals and package descriptions in a folder that `--texts` names: up to
20,000 embedded with the built-in embedder, a thousand of them kept out as queries; the million are mixtures of two
neighbouring ones plus noise.
"""

import argparse
import math
import re
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
import faiss
import numpy as np

from skillcompose.builtin import resolve
from skillcompose.index.rankings import embed, load_embedder
from skillcompose.index.vectors import build_index, read_index, recall_of
from skillcompose.machine import cores
from skillcompose.passages import readers
from skillcompose.progress import Progress

SENTENCES, QUERIES, K, SEED = 20_000, 1000, 10, 0


def sentences(folder: Path) -> list[str]:
    found: dict[str, None] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".md", ".html"):
            text = readers.html(path) if path.suffix == ".html" else path.read_text(encoding="utf-8")
            found |= dict.fromkeys(
                " ".join(s.split()) for s in re.split(r"(?<=[.!?])\s+", text) if 40 < len(s.strip()) < 300
            )
    every = list(found)
    rng = np.random.default_rng(SEED)
    return [every[i] for i in rng.permutation(len(every))[:SENTENCES]]


def million(real: np.ndarray, count: int) -> np.ndarray:
    """Unit vectors between a real one and one of its ten neighbours, with a little noise."""
    rng = np.random.default_rng(SEED)
    index = faiss.IndexFlatIP(real.shape[1])
    index.add(real)
    _, near = index.search(real, 11)
    made = np.empty((count, real.shape[1]), np.float32)
    for begin in range(0, count, 100_000):
        size = min(100_000, count - begin)
        one = rng.integers(len(real), size=size)
        other = near[one, rng.integers(1, 11, size=size)]
        share = rng.uniform(0, 1, (size, 1)).astype(np.float32)
        noise = rng.standard_normal((size, real.shape[1])).astype(np.float32)
        noise *= 0.2 / np.linalg.norm(noise, axis=1, keepdims=True)
        part = share * real[one] + (1 - share) * real[other] + noise
        made[begin : begin + size] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return made


def growth(count: int, build: float, size: float, ms: float) -> list[str]:
    """What the same settings cost for 100 million, from how each part grows; nothing of it was run."""
    times, deeper = 100_000_000 / count, math.log(100_000_000) / math.log(count)
    return [
        f"computed for 100 million: {build * times * deeper / 3600:.1f} h to build on {cores()} cores (n log n), "
        f"{size * times / 1024:.0f} GiB of file (linear), the floats that it is built from "
        f"{4 * 384e8 / 2**30:.0f} GiB; {ms * deeper:.1f} ms a query where all of it is in memory (log n)"
    ]


def resident() -> float:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1_000_000)
    options = parser.parse_args()
    real = embed(load_embedder(resolve("builtin:all-minilm-l6-v2")), sentences(options.texts), Progress())
    print(f"{len(real)} sentences")
    queries, real = real[:QUERIES], real[QUERIES:]
    vectors = million(real, options.count)
    begin = time.monotonic()
    index, about = build_index(vectors)
    seconds = time.monotonic() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    _, wanted = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)
    del vectors
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        faiss.write_index(index, str(path))
        del index
        before = resident()
        mapped = read_index(path)
        faiss.omp_set_num_threads(1)
        recall = recall_of(mapped, queries, wanted)
        times = []
        for query in queries:
            begin = time.monotonic()
            mapped.search(query[None], K)
            times.append(1000 * (time.monotonic() - begin))
        size, read = path.stat().st_size / 2**20, resident() - before
    print(f"{options.count} vectors: {about}; built in {seconds:.0f} s, {size:.0f} MiB")
    print(f"peak memory while building {peak:.0f} MiB; its file, mapped, took {read:.0f} MiB")
    print(f"{statistics.median(times):.2f} ms a query on one core (p95 {sorted(times)[int(0.95 * len(times))]:.2f})")
    print(f"recall@{K} {recall:.3f} on {QUERIES} real sentences that are not in the index")
    print("\n".join(growth(options.count, seconds, size, statistics.median(times))))
    if options.count == 1_000_000:
        command = "python benchmarks/knowledge/search.py --texts FOLDER"
        claims.write("knowledge.search_1m_ms", round(statistics.median(times), 2), "ms, median", command, [SEED])
        claims.write("knowledge.search_1m_recall", round(recall, 3), "recall@10", command, [SEED])


if __name__ == "__main__":
    main()
