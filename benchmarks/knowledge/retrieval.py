"""Does fusing words and meaning find more than either? Every heading of the manuals is a query for its own section.

    python benchmarks/knowledge/retrieval.py --manuals FOLDER        the claims `knowledge.mrr10_*`

HTML manuals, cut as the passages stage cuts them. Numbering is stripped from the queries; headings are taken out of the
passages, and so is every line that repeats one (contents lists, indexes, links). A query is right where any passage of
its section is found. Differences are paired, with 95 % bootstrap intervals over queries.
"""

import argparse
import re
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

from skillcompose.builtin import resolve
from skillcompose.index import Retriever
from skillcompose.index.retriever import words
from skillcompose.metrics import bootstrap
from skillcompose.passages.chunks import passages_of, splitter, without_copies
from skillcompose.passages.readers import html
from skillcompose.progress import Progress
from skillcompose.prompts import normalise
from skillcompose.types import Passage

EMBEDDER, K = "builtin:all-minilm-l6-v2", 10
NUMBERING = re.compile(r"^\s*(?:(?:chapter|appendix|section)\s+)?[\dA-Z]?(?:\.?\d+)*[.:]?\s+", re.I)
FEWEST = 2  # words of a heading that is asked for


def read(folder: Path) -> tuple[list[Passage], dict[str, set[str]]]:
    """Passages without headings, and query -> ids of its section's passages."""
    split = splitter(resolve(EMBEDDER), 200, 30)
    found: list[Passage] = []
    for path in sorted(folder.rglob("*.html")):
        found += passages_of(html(path), path.relative_to(folder).as_posix(), split)
    found, _ = without_copies(found)
    queries = {p.id: NUMBERING.sub("", p.position.split(" > ")[-1]).strip() for p in found}
    asked: dict[str, set[str]] = {}
    places: dict[str, set[tuple[str, str]]] = {}
    for passage in found:
        query = queries[passage.id]
        if len(query.split()) >= FEWEST:
            asked.setdefault(query, set()).add(passage.id)
            places.setdefault(query, set()).add((passage.source, passage.position))
    # A heading that several sections have in common has no right answer of its own.
    asked = {query: ids for query, ids in asked.items() if len(places[query]) == 1}
    headings = [normalise(query) for query in asked]
    kept = []
    for passage in found:
        lines = [line for line in passage.text.splitlines() if not any(h in normalise(line) for h in headings)]
        if text := "\n".join(lines).strip():
            kept.append(replace(passage, title="", text=text))
    ids = {passage.id for passage in kept}
    return kept, {query: gold & ids for query, gold in asked.items() if gold & ids}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manuals", type=Path, required=True)
    options = parser.parse_args()
    passages, asked = read(options.manuals)
    queries = list(asked)
    retriever = Retriever.build(passages, resolve(EMBEDDER), "hybrid", Progress())
    dense = Retriever(passages, retriever.index, retriever.embedder, "dense")
    begin = time.monotonic()
    found = {"hybrid": [[hit.passage.id for hit in hits] for hits in retriever.search(queries, K)]}
    hybrid_ms = 1000 * (time.monotonic() - begin) / len(queries)
    found["dense"] = [[hit.passage.id for hit in hits] for hits in dense.search(queries, K)]
    assert retriever.lexical is not None
    lexical, _ = retriever.lexical.retrieve(words(queries), k=K, show_progress=False)
    found["bm25"] = [[passages[i].id for i in row] for row in lexical.tolist()]
    ranks = {name: reciprocal(rows, [asked[query] for query in queries]) for name, rows in found.items()}
    print(f"{len(passages)} passages, {len(queries)} queries, hybrid {hybrid_ms:.1f} ms a query in one batch")
    command = "python benchmarks/knowledge/retrieval.py --manuals FOLDER"
    for name, scores in ranks.items():
        mean, ends = statistics.mean(scores), [round(end, 3) for end in bootstrap(scores, queries)]
        at = {k: statistics.mean(score >= 1 / k for score in scores) for k in (1, 5)}
        print(f"{name:7} MRR@10 {mean:.3f} {ends}, recall@1 {at[1]:.3f}, @5 {at[5]:.3f}")
        claims.write(f"knowledge.mrr10_{name}", round(mean, 3), "MRR@10", command, [0], ends)
    for name in ("dense", "bm25"):
        differences = [a - b for a, b in zip(ranks["hybrid"], ranks[name], strict=True)]
        low, high = bootstrap(differences, queries)
        print(f"hybrid - {name}: {statistics.mean(differences):+.3f} [{low:+.3f}, {high:+.3f}]")


def reciprocal(rows: list[list[str]], gold: list[set[str]]) -> list[float]:
    """1 / rank of the first right passage of each query, 0 when there is none."""
    return [
        next((1 / rank for rank, found in enumerate(row, 1) if found in right), 0.0)
        for row, right in zip(rows, gold, strict=True)
    ]


if __name__ == "__main__":
    main()
