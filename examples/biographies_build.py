"""Make a world of synthetic biographies: a knowledge base in which everything is known about every fact.

    python examples/biographies_build.py FOLDER [--known 100] [--reused 100] [--new 200] [--seed 0]

- `people.csv`: the *known* people with 20 relations for the weights, 6 of them to other known people;
- `register.csv`: 19 relations for the index, 10 of them to known people, about known people again (`reused`) and about
  people that the weights hear nothing of (`new`);
- `documents/<letter>.md`: one heading a person of the register, with remarks that answer no question.

Relations of the two files have no name in common, and a recipe takes as many of them as it names. Made so that a
question has one answer and no way around: names are unique; spouses and best friends are mutual; the people that one
person is related to are all different, so that no relation leads where another one does; nobody is related to
themselves; values of a closed list are used equally often, and no value of the weights stands in one of the index.
The number of relations follows arXiv 2512.01970 (there for 10,000 people).
"""

import argparse
import csv
import random
from collections.abc import Iterator
from pathlib import Path

import yaml

MUTUAL = ("spouse", "best_friend")
WEIGHTS_PEOPLE = (*MUTUAL, "boss", "mentor", "doctor", "landlord")
INDEX_PEOPLE = "neighbour", "coach", "tenant", "dentist", "lawyer", "accountant", "tutor", "editor", "trainer", "guide"
WORDS = {
    kind: text.split()
    for kind, text in yaml.safe_load(Path(__file__).with_name("biographies_words.yaml").read_text()).items()
}
PLACES, THINGS = WORDS["places"], WORDS["things"]
WEIGHTS_VALUES = {
    "employer": [f"{thing.title()} {trade}" for thing, trade in zip(THINGS, WORDS["trades"] * 9, strict=False)][:60],
    "city": PLACES,
    "college": [f"{place} College" for place in PLACES],
    "hobby": WORDS["hobbies"],
    "birthplace": PLACES,
    "field": WORDS["fields"],
    "club": [f"{thing.title()} Club" for thing in THINGS],
    "colour": WORDS["colours"],
    "instrument": WORDS["instruments"],
    "language": WORDS["languages"],
    "dish": WORDS["dishes"],
    "bank": [f"{thing.title()} Bank" for thing in THINGS],
    "school": [f"{place} School" for place in PLACES],
    "party": [f"{thing.title()} Party" for thing in THINGS[:20]],
}
INDEX_VALUES = {
    "pet": [f"{thing} {animal}" for thing, animal in zip(THINGS, WORDS["animals"] * 9, strict=False)],
    "street": [f"{thing.title()} Street" for thing in THINGS],
    "car": [f"{thing.title()} {number}" for thing, number in zip(THINGS, range(11, 99), strict=False)],
    "team": [f"{thing.title()} Team" for thing in THINGS],
    "course": [f"course {number}" for number in range(101, 161)],
    "hut": [f"{thing.title()} Hut" for thing in THINGS],
    "boat": [f"Lady {thing.title()}" for thing in THINGS],
    "choir": [f"{thing.title()} Choir" for thing in THINGS],
}
BADGE = "badge"  # of one person only: asked the other way round, it leads to its owner
REMARKS = (
    "Joined in {year}. Meets on {day}s.",
    "Has been a member since {year}; usually there on {day}s.",
    "Entered in {year}, prefers {day}s.",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
Row = dict[str, str]


def names(count: int, rng: random.Random) -> list[str]:
    every = [f"{first} {last}" for first in WORDS["first names"] for last in WORDS["last names"]]
    if count > len(every):
        raise SystemExit(f"{count} people need more names than the {len(every)} that there are")
    return rng.sample(every, count)


def evenly(values: list[str], count: int, rng: random.Random) -> Iterator[str]:
    """So many of the values, shuffled, each as often as any other."""
    every = (values * (count // len(values) + 1))[:count]
    return iter(rng.sample(every, count))


def known_people(people: list[str], rng: random.Random) -> list[Row]:
    """Rows of the weights' relations."""
    met: dict[str, set[str]] = {name: {name} for name in people}
    rows: dict[str, Row] = {name: {"name": name} for name in people}
    for relation in MUTUAL:
        free = rng.sample(people, len(people))
        while free:
            one = free.pop()
            other = next((name for name in free if name not in met[one]), None)
            if other is None:  # the last ones know each other already
                continue
            free.remove(other)
            for a, b in ((one, other), (other, one)):
                rows[a][relation] = b
                met[a].add(b)
    for relation in WEIGHTS_PEOPLE[len(MUTUAL) :]:
        relate(rows, relation, people, met, rng)
    for relation, values in WEIGHTS_VALUES.items():
        for row, value in zip(rows.values(), evenly(values, len(people), rng), strict=True):
            row[relation] = value
    return list(rows.values())


def register(listed: list[str], people: list[str], met: dict[str, set[str]], rng: random.Random) -> list[Row]:
    """Rows of the index's relations."""
    rows: dict[str, Row] = {name: {"name": name} for name in listed}
    for relation in INDEX_PEOPLE:
        relate(rows, relation, people, met, rng)
    for relation, values in INDEX_VALUES.items():
        for row, value in zip(rows.values(), evenly(values, len(listed), rng), strict=True):
            row[relation] = value
    pairs = [f"{one} {other}" for one in THINGS for other in [*THINGS, *WORDS["animals"]] if one != other]
    badges = pairs if len(listed) < len(pairs) else [*pairs, *(f"second {pair}" for pair in pairs)]
    for row, badge in zip(rows.values(), rng.sample(badges, len(listed)), strict=True):
        row[BADGE] = badge
    return list(rows.values())


def relate(
    rows: dict[str, Row], relation: str, people: list[str], met: dict[str, set[str]], rng: random.Random
) -> None:
    """One of the people for each row, each chosen equally often, whom no other relation of the row leads to."""
    free = list(evenly(people, len(rows), rng))
    for name, row in rows.items():
        number = next((i for i, other in enumerate(free) if other not in met[name]), None)
        other = free.pop(number) if number is not None else rng.choice([p for p in people if p not in met[name]])
        row[relation] = other
        met[name].add(other)


def build(folder: Path, known: int, reused: int, new: int, seed: int) -> None:
    """Write the world; the same numbers give the same files."""
    if reused > known:
        raise SystemExit(f"--reused {reused} cannot be more than --known {known}")
    rng = random.Random(f"biographies {seed}")
    everyone = names(known + new, rng)
    people = everyone[:known]
    rows = known_people(people, rng)
    met = {row["name"]: {row["name"], *(row[r] for r in WEIGHTS_PEOPLE if r in row)} for row in rows}
    met |= {name: {name} for name in everyone[known:]}
    listed = sorted(rng.sample(people, reused) + everyone[known:])
    write_table(folder / "people.csv", ["name", *WEIGHTS_PEOPLE, *WEIGHTS_VALUES], rows)
    write_table(
        folder / "register.csv", ["name", *INDEX_PEOPLE, *INDEX_VALUES, BADGE], register(listed, people, met, rng)
    )
    pages: dict[str, list[str]] = {}
    for name in listed:
        remark = rng.choice(REMARKS).format(year=rng.randrange(1970, 2025), day=rng.choice(DAYS))
        pages.setdefault(name[0], []).append(f"## {name}\n\n{remark}\n")
    (folder / "documents").mkdir(exist_ok=True)
    for letter, sections in pages.items():
        text = "\n".join([f"# Members, {letter}\n", *sections])
        (folder / "documents" / f"{letter.lower()}.md").write_text(text, encoding="utf-8")


def write_table(path: Path, columns: list[str], rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--known", type=int, default=100, help="people that the weights know, 12 or more")
    parser.add_argument("--reused", type=int, default=100, help="of these also in the register")
    parser.add_argument("--new", type=int, default=200, help="people in the register that the weights do not know")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    build(options.folder, options.known, options.reused, options.new, options.seed)


if __name__ == "__main__":
    main()
