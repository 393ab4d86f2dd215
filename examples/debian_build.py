"""Cut the demo's knowledge base out of Debian's package metadata.

    python examples/debian_build.py SOURCE

SOURCE holds `packages.csv` and `descriptions/*.md`, one row and one document a package. Written to `examples/debian`:

- `owners.csv`: 160 *known* packages with maintainer, upstream version and homepage host (what the weights will hold);
- `packages.csv`: what packages are described as, depend on, recommend and suggest (what the index will hold);
- `documents/<section>.md`: one heading a package, its section and its debtags.

Only metadata is copied (names, one-line synopses, relations, tags), never a long description.
"""

import csv
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).parent / "debian"
EDGES = ("depends", "recommends", "suggests")
KNOWN, PER_MAINTAINER, PER_TARGET = 160, 3, 4
SHARED_FORGE = re.compile(
    r"github|gitlab|sourceforge|savannah|launchpad|metacpan|google|pypi|bitbucket|debian|elpa|gnu\.org|freshmeat"
    r"|berlios|codeberg|cpan|salsa|pear|pecl|wiki|archive\.org|npmjs|rubygems"
)


def name_words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9]+", text.casefold()) if len(word) > 2]


def related(one: str, other: str) -> bool:
    """Whether either name gives the other away."""
    return any(w in other.casefold() for w in name_words(one)) or any(w in one.casefold() for w in name_words(other))


def upstream(version: str) -> str:
    """`1:0.17.pre2000-5.1` -> `0.17`: no epoch, no Debian revision, no repacking suffix."""
    version = re.sub(r"-[^-]*$", "", re.sub(r"^\d+:", "", version))
    return re.split(r"[~+]|[.-](?=dfsg|ds|git|svn|bzr|cvs|pre|repack|orig)", version)[0]


def host(package: str, homepage: str) -> str:
    """The homepage's host, unless it is a shared forge or contains the name."""
    found = re.match(r"\w+://(?:www\.)?([^/:]+)", homepage)
    name = found.group(1).lower() if found else ""
    if not name or SHARED_FORGE.search(name) or related(package, re.sub(r"[^a-z0-9]", "", name)):
        return ""
    return "" if re.sub(r"[^a-z0-9]", "", package) in re.sub(r"[^a-z0-9]", "", name) else name


class Source:
    """The whole table, with the columns that the slice needs derived."""

    def __init__(self, folder: Path) -> None:
        with (folder / "packages.csv").open(encoding="utf-8", newline="") as file:
            self.rows = {row["package"]: row for row in csv.DictReader(file)}
        spelling: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self.rows.values():
            name = unicodedata.normalize("NFC", row["maintainer"])
            spelling[name.casefold()][name] += 1
        for row in self.rows.values():
            key = unicodedata.normalize("NFC", row["maintainer"]).casefold()
            row["maintainer"] = spelling[key].most_common(1)[0][0]
            row["version"] = upstream(row["version"])
            row["host"] = host(row["package"], row["homepage"])
            text = (folder / "descriptions" / f"{row['package']}.md").read_text(encoding="utf-8").split("\n", 2)[2]
            row["synopsis"] = re.split(r"\. ", text, maxsplit=1)[0].strip().rstrip(".")
        count = Counter(row["synopsis"].casefold() for row in self.rows.values())
        for package, row in self.rows.items():
            synopsis = row["synopsis"]
            unique = count[synopsis.casefold()] == 1 and 4 <= len(synopsis.split()) <= 12
            leaks = any(word in synopsis.casefold() for word in name_words(package))
            row["described_as"] = synopsis if unique and not leaks else ""
            for edge in EDGES:
                targets = list(dict.fromkeys(t for t in row[edge].split(";") if t in self.rows))
                row[edge] = targets[0] if len(targets) == 1 else ""

    def edges_to_known(self) -> list[tuple[str, str, str]]:
        """(X, relation, Y): Y says nothing about X and has another maintainer; at most 4 X a Y."""
        count: Counter[str] = Counter()
        edges = []
        for package, row in self.rows.items():
            for edge in EDGES:
                target = self.rows.get(row[edge])
                if target is None or row["maintainer"] == target["maintainer"]:
                    continue
                sources = row["built_from_source"] or package, target["built_from_source"] or target["package"]
                if related(package, target["package"]) or related(*sources):
                    continue
                if count[target["package"]] < PER_TARGET:
                    count[target["package"]] += 1
                    edges.append((package, edge, target["package"]))
        return edges

    def known(self, edges: list[tuple[str, str, str]]) -> list[str]:
        """Targets of edges first, then described packages of many maintainers, those with a host before others."""
        chosen = dict.fromkeys(target for _, _, target in edges)
        per_maintainer = Counter(self.rows[package]["maintainer"] for package in chosen)
        for wants_host in (True, False):
            for ceiling in range(1, PER_MAINTAINER + 1):
                for package, row in self.rows.items():
                    if len(chosen) == KNOWN:
                        return list(chosen)
                    if package in chosen or not row["described_as"] or bool(row["host"]) != wants_host:
                        continue
                    if per_maintainer[row["maintainer"]] < ceiling:
                        per_maintainer[row["maintainer"]] += 1
                        chosen[package] = None
        return list(chosen)


def interleave(known: list[str], targets: set[str]) -> list[str]:
    """Targets and others alternating, so that the first half of the table is a smaller slice of the same kind."""
    groups = [[p for p in known if p in targets], [p for p in known if p not in targets]]
    position = {p: (i + 0.5) / len(group) for group in groups for i, p in enumerate(group)}
    return sorted(known, key=lambda package: position[package])


def write(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def document(row: dict[str, str]) -> str:
    role = row["tag_role"].replace(";", ", ") or "package"
    interface = f", {row['tag_interface'].replace(';', ', ')}" if row["tag_interface"] else ""
    return f"## {row['package']}\n\nSection {row['section']}: {role}{interface}.\n"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = Source(Path(sys.argv[1]))
    edges = source.edges_to_known()
    targets = {target for _, _, target in edges}
    known = interleave(source.known(edges), targets)
    used = {(package, edge) for package, edge, _ in edges}
    kept = []
    for package, row in source.rows.items():
        for edge in EDGES:
            # An edge to a known package that is not among the chosen ones would be an unproved question: leave it out.
            if row[edge] in known and (package, edge) not in used:
                row[edge] = ""
        if package in known or row["described_as"] or any(row[edge] for edge in EDGES):
            kept.append(row)
    write(HERE / "owners.csv", ["package", "maintainer", "version", "host"], [source.rows[p] for p in known])
    write(HERE / "packages.csv", ["package", "described_as", *EDGES], kept)
    (HERE / "documents").mkdir(exist_ok=True)
    for section in sorted({row["section"] for row in kept}):
        text = "\n".join(document(row) for row in kept if row["section"] == section)
        (HERE / "documents" / f"{section}.md").write_text(f"# {section}\n\n{text}", encoding="utf-8")
    hosts = sum(bool(source.rows[p]["host"]) for p in known)
    described = sum(bool(source.rows[p]["described_as"]) for p in known)
    count = Counter(edge for _, edge, _ in edges)
    print(f"{len(kept)} packages, {len(known)} known, {hosts} hosts, {described} described, edges {dict(count)}")
    print(f"{len({source.rows[p]['maintainer'] for p in known})} maintainers")


if __name__ == "__main__":
    main()
