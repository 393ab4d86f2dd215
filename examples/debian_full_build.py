"""Derive the knowledge base of `recipes/debian-full.yaml` from Debian's package metadata.

    python examples/debian_full_build.py SOURCE

SOURCE is what `debian_build.py` reads, which cleans it. Written to `examples/debian-full`, three tables that join:

- `packages.csv`: what packages are described as, depend on, recommend and suggest (`;` between several); maintainer,
  version and homepage host of the 300 *known* ones;
- `maintainers.csv`: the section that most of a maintainer's packages are in, how many there are, person or team;
- `sections.csv`: what a section is about;
- `documents/<section>.md`: one heading a package and its debtags as fields.

Only metadata is copied (names, one-line synopses, relations, tags), never a long description.
"""

import csv
import re
import sys
from collections import Counter
from pathlib import Path

from debian_build import EDGES, Source, write

HERE = Path(__file__).parent / "debian-full"
KNOWN, PER_MAINTAINER, PER_TARGET = 300, 5, 8
WORDS = {"the"}  # a package's name that is a word of every question
TOPICS = {
    "database": "storing and querying records",
    "editors": "writing and changing texts",
    "hamradio": "talking over the air as an amateur",
    "httpd": "answering browsers",
    "mail": "sending and reading letters",
    "news": "following newsgroups",
    "shells": "typing commands",
    "vcs": "keeping the history of files",
}
FIELDS = {"tag_role": "Role", "tag_interface": "Interface", "tag_implemented-in": "Language", "tag_use": "Use"}
TEAM = re.compile(r"maintainers|team|group|task force|developers|packag", re.I)


def edges_of(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Package -> relation -> targets, joined; a target that is the only one of a cell is led to at most eight times."""
    led_to: Counter[str] = Counter()
    found: dict[str, dict[str, str]] = {package: {} for package in rows}
    for package, row in rows.items():
        for edge in EDGES:
            targets = list(dict.fromkeys(target for target in row[edge].split(";") if target in rows))
            if len(targets) == 1:
                # A name that contains the other gives the question's bridge away.
                if re.search(rf"(?<!\w){re.escape(targets[0])}(?!\w)", package) or led_to[targets[0]] == PER_TARGET:
                    continue
                led_to[targets[0]] += 1
            found[package][edge] = ";".join(targets)
    return found


def known_of(rows: dict[str, dict[str, str]], edges: dict[str, dict[str, str]]) -> list[str]:
    """Packages that can be led to by an edge and by a description first, then by one of them; few of one
    maintainer before many."""
    targets = {target for found in edges.values() for target in found.values() if target and ";" not in target}
    chosen: dict[str, None] = {}
    held: Counter[str] = Counter()
    for ceiling in range(1, PER_MAINTAINER + 1):
        for ways in (2, 1):
            for package, row in rows.items():
                if (package in targets) + bool(row["described_as"]) < ways or package in chosen:
                    continue
                if len(chosen) < KNOWN and held[row["maintainer"]] < ceiling:
                    held[row["maintainer"]] += 1
                    chosen[package] = None
    return [package for package in rows if package in chosen]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = Source(Path(sys.argv[1]))
    # It keeps single edges only.
    with (Path(sys.argv[1]) / "packages.csv").open(encoding="utf-8", newline="") as file:
        raw = {row["package"]: row for row in csv.DictReader(file)}
    rows = {package: row | {edge: raw[package][edge] for edge in EDGES} for package, row in source.rows.items()}
    rows = {package: row for package, row in rows.items() if package not in WORDS}
    edges = edges_of(rows)
    known = known_of(rows, edges)
    table = []
    for package, row in rows.items():
        there = {"package": package, "description": row["described_as"], **edges[package]}
        if package in known:
            there |= {"maintainer": row["maintainer"], "version": row["version"], "homepage": row["host"]}
        if package in known or row["described_as"] or any(edges[package].values()):
            table.append(there)
    columns = ["package", "description", *EDGES, "maintainer", "version", "homepage"]
    HERE.mkdir(exist_ok=True)
    write(HERE / "packages.csv", columns, table)
    of: dict[str, Counter[str]] = {}
    for row in rows.values():
        of.setdefault(row["maintainer"], Counter())[row["section"]] += 1
    maintainers = [
        {
            "maintainer": name,
            "section": sections.most_common(1)[0][0],
            "package_count": str(sections.total()),
            "kind": "team" if TEAM.search(name) else "person",
        }
        for name, sections in sorted(of.items())
        if name in {rows[package]["maintainer"] for package in known}
    ]
    write(HERE / "maintainers.csv", ["maintainer", "section", "package_count", "kind"], maintainers)
    write(HERE / "sections.csv", ["section", "topic"], [{"section": n, "topic": t} for n, t in TOPICS.items()])
    (HERE / "documents").mkdir(exist_ok=True)
    for section in TOPICS:
        parts = [f"# {section}\n"]
        for there in table:
            row = rows[there["package"]]
            said = [f"- {name}: {row[tag].replace(';', ', ')}\n" for tag, name in FIELDS.items() if row[tag]]
            if row["section"] == section and len(said) > 1:
                parts.append(f"## {there['package']}\n\n{''.join(said)}")
        (HERE / "documents" / f"{section}.md").write_text("\n".join(parts), encoding="utf-8")
    led = Counter(edge for package in table for edge in EDGES if package.get(edge) in known)
    described = sum(bool(rows[package]["described_as"]) for package in known)
    print(f"{len(table)} packages, {len(known)} known, {described} described, edges to them {dict(led)}")
    print(f"{len(maintainers)} maintainers, {sum(bool(rows[p]['host']) for p in known)} homepages")


if __name__ == "__main__":
    main()
