"""Does fusing rankings find more than each alone? Every heading of manuals is a query for its own section.

    python benchmarks/knowledge/retrieval.py --texts FOLDER        the claims `knowledge.mrr10_*`, `knowledge.recall*`

Queries and passages: headings.py. Differences are paired, with 95 % bootstrap intervals over queries. Settings were
chosen on one half of the queries (by hash), so the other half is reported too.
"""

import argparse
import hashlib
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
import headings

from skillcompose.index import Retriever
from skillcompose.metrics import bootstrap
from skillcompose.progress import Progress
from skillcompose.sections import Index

K, TIMED = 10, 100
COMMAND = "python benchmarks/knowledge/retrieval.py --texts FOLDER"
NAMES = {"dense": "dense", "words": "bm25", "sparse": "sparse"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="HTML manuals, and Markdown as distractors")
    options = parser.parse_args()
    passages, asked, counts = headings.read(options.texts, Index().embedder)
    queries = list(asked)
    print(f"{len(passages)} passages, {len(queries)} queries; {dict(counts)}")
    retriever = Retriever.build(passages, Index(), progress=Progress())
    found = {label: scores(retriever, queries, asked, (name,)) for name, label in NAMES.items()}
    found["hybrid"] = scores(retriever, queries, asked, ())
    halves = [int(hashlib.sha256(query.encode()).hexdigest(), 16) % 2 for query in queries]
    for label, values in found.items():
        by = tuple(name for name, other in NAMES.items() if other == label)
        at = {k: statistics.mean(value >= 1 / k for value in values) for k in (1, 5)}
        other = statistics.mean(value for value, half in zip(values, halves, strict=True) if half)
        mean, ends = statistics.mean(values), interval(values, queries)
        print(
            f"{label:7} MRR@10 {mean:.3f} {ends}, other half {other:.3f}, recall@1 {at[1]:.3f}, @5 {at[5]:.3f}, "
            f"{milliseconds(retriever, queries, by):.1f} ms a query"
        )
        claims.write(f"knowledge.mrr10_{label}", round(mean, 3), "MRR@10", COMMAND, [0], ends)
        for k, share in at.items():
            claims.write(f"knowledge.recall{k}_{label}", round(share, 3), f"recall@{k}", COMMAND, [0])
    for label in NAMES.values():
        differences = [a - b for a, b in zip(found["hybrid"], found[label], strict=True)]
        held = [(d, q) for d, q, half in zip(differences, queries, halves, strict=True) if half]
        value, ends = round(statistics.mean(differences), 3), interval(differences, queries, True)
        half_ends = interval([d for d, _ in held], [q for _, q in held], True)
        print(f"hybrid - {label}: {value:+.3f} {ends}", end="; ")
        print(f"other half {statistics.mean(d for d, _ in held):+.3f} {half_ends}")
        if label != "sparse":
            claim = f"knowledge.mrr10_gain_over_{label}"
            claims.write(claim, value, "MRR@10, hybrid minus it", COMMAND, [0], ends)


def scores(retriever: Retriever, queries: list[str], asked: dict[str, set[str]], by: tuple[str, ...]) -> list[float]:
    """1 / rank of the first right passage of each query, 0 when there is none."""
    rows = retriever.search(queries, K, by=by)
    return [
        next((1 / rank for rank, hit in enumerate(row, 1) if hit.passage.id in asked[query]), 0.0)
        for query, row in zip(queries, rows, strict=True)
    ]


def milliseconds(retriever: Retriever, queries: list[str], by: tuple[str, ...]) -> float:
    """Median of queries that come one after another."""
    times = []
    for query in queries[:TIMED]:
        begin = time.monotonic()
        retriever.search([query], K, by=by)
        times.append(1000 * (time.monotonic() - begin))
    return statistics.median(times)


def interval(values: list[float], queries: list[str], differences: bool = False) -> list[float]:
    return [round(end, 3) for end in bootstrap(values, queries, differences=differences)]


if __name__ == "__main__":
    main()
