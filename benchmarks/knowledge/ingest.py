"""How long does a real folder take to read, and is a section found alike from HTML and from PDF?

    python benchmarks/knowledge/ingest.py --data FOLDER        the claims `knowledge.ingest_*`, `knowledge.pdf_html_*`

FOLDER holds `debian-packages` (packages.csv, a description of each package) and `debian-manuals` (HTML and PDF). All of
it is read, cut, embedded and indexed by `train --until index`; then the same command again. The second one may import
no torch. Then 60 titles that are a heading of the HTML and an entry of the PDF's outline are searched in an index of
each kind alone: right is a passage below that heading among the first five.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
import yaml

from skillcompose.prompts import normalise

COMMAND = "python benchmarks/knowledge/ingest.py --data FOLDER"
EMBEDDER = "builtin:all-minilm-l6-v2"
MANUALS = ("policy", "developers-reference")
TITLES, TOP, SEED, FEWEST = 60, 5, 0, 2
NUMBERING = re.compile(r"^\s*(?:(?:chapter|appendix|section)\s+)?(?:[A-Z](?=[.\d ])|\d+)?(?:\.?\d+)*[.:]?\s+", re.I)
AGAIN = """
import sys, skillcompose
skillcompose.train(skillcompose.Recipe.from_yaml(sys.argv[1]), sys.argv[2], until="index")
print("torch" in sys.modules)
"""


def write_recipe(data: Path, folder: Path) -> Path:
    """The starter's recipe on all of the data: who maintains a package for the weights, the rest for the index."""
    found = yaml.safe_load((claims.ROOT / "recipes" / "quickstart.yaml").read_text())
    table = "debian-packages/packages.csv"
    columns = {"maintainer": "weights", "section": "index", "depends": "index"}
    found["facts"] = {
        "tables": {table: {"key": "package", "separator": ";"}},
        "relations": {name: {"table": table, "column": name, "place": place} for name, place in columns.items()},
    }
    found["questions"] = {"train": ["depends > maintainer"]}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(found | {"name": "ingest", "knowledge_base": str(data.resolve())}))
    return path


def ingest(data: Path, folder: Path) -> tuple[float, float, bool]:
    """Seconds of the first run and of the second, and whether the second imported torch."""
    recipe, run = write_recipe(data, folder), folder / "run"
    times = []
    for _ in range(2):
        begin = time.monotonic()
        done = subprocess.run([sys.executable, "-c", AGAIN, recipe, run], stdout=subprocess.PIPE, text=True, check=True)
        times.append(time.monotonic() - begin)
    for name in ("01-passages/passages.report.json", "03-index/index.report.json"):
        report = json.loads((run / name).read_text())
        print({key: len(value) if isinstance(value, dict) else value for key, value in report.items()})
    return times[0], times[1], done.stdout.strip() == "True"


def plain(title: str) -> str:
    return normalise(NUMBERING.sub("", re.sub("[\u00b6`]", "", title)))


def titles(folder: Path) -> list[str]:
    """Headings of the HTML that are in the PDF's outline too, once and in words; from the files, not by our readers."""
    import pypdfium2
    from bs4 import BeautifulSoup

    html: list[str] = []
    for path in sorted(folder.rglob("*.html")):
        soup = BeautifulSoup(path.read_bytes(), "lxml")
        html += [plain(heading.get_text()) for heading in soup.select("h1, h2, h3, h4")]
    with pypdfium2.PdfDocument(folder.with_suffix(".pdf")) as document:
        outline = [plain(bookmark.get_title()) for bookmark in document.get_toc()]
    return [title for title in dict.fromkeys(outline) if title in html and outline.count(title) == 1 and worded(title)]


def worded(title: str) -> bool:
    """Of at least two words of letters: "version 3.9.0" differs from its neighbours by digits alone, and asks nothing
    of a reader."""
    return sum(word.isalpha() for word in re.split(r"[\s-]+", title)) >= FEWEST


def found_in(data: Path, kind: str, asked: list[tuple[str, str]]) -> list[bool]:
    """For each (manual, title) whether the section is among the first five passages of the manuals in this kind."""
    from skillcompose.builtin import resolve
    from skillcompose.index import Retriever
    from skillcompose.passages.chunks import passages_of, splitter, without_copies
    from skillcompose.passages.readers import READERS
    from skillcompose.sections import Index

    split = splitter(resolve(EMBEDDER), 200, 30)
    passages = []
    for manual in MANUALS:
        for path in sorted((data / "debian-manuals").rglob(f"*{kind}")):
            name = path.relative_to(data / "debian-manuals").as_posix()
            if manual in name:
                passages += passages_of(READERS[kind](path), name, split)
    passages, _ = without_copies(passages)
    hits = Retriever.build(passages, Index(embedder=EMBEDDER)).search([title for _, title in asked], TOP)
    right = [
        any(manual in h.passage.source and title in map(plain, h.passage.position.split(" > ")) for h in row)
        for (manual, title), row in zip(asked, hits, strict=True)
    ]
    print(f"{kind}: {len(passages)} passages, {sum(right)} of {len(asked)} sections found")
    for (manual, title), row, found in zip(asked, hits, right, strict=True):
        if not found:
            print(f"  missed in {manual}{kind}: {title!r}; first {row[0].passage.position!r}")
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only-agreement", action="store_true", help="leave out the timed runs")
    options = parser.parse_args()
    if not options.only_agreement:
        with tempfile.TemporaryDirectory() as folder:
            first, second, torch = ingest(options.data, Path(folder))
        print(f"first {first:.1f} s, again {second:.1f} s, torch imported again: {torch}")
        assert not torch
        claims.write("knowledge.ingest_minutes", round(first / 60, 2), "min", COMMAND, [0])
        claims.write("knowledge.ingest_again_seconds", round(second, 1), "s", COMMAND, [0])
    every = [(manual, title) for manual in MANUALS for title in titles(options.data / "debian-manuals" / manual)]
    asked = random.Random(SEED).sample(every, min(TITLES, len(every)))
    print(f"{len(every)} titles stand in both, {len(asked)} are asked")
    html, pdf = found_in(options.data, ".html", asked), found_in(options.data, ".pdf", asked)
    both = sum(a and b for a, b in zip(html, pdf, strict=True))
    claims.write(
        "knowledge.pdf_html_agreement", round(100 * both / len(asked), 1), f"% of {len(asked)}", COMMAND, [SEED]
    )


if __name__ == "__main__":
    main()
