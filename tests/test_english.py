"""General wordings: what a column is called decides how it is asked about."""

from pathlib import Path

import pytest

import skillcompose
from skillcompose.english import general, row_noun, singular, spoken
from skillcompose.questions.wordings import asked, referred
from skillcompose.sections import Relation

PLAIN = ["spouse", "boss", "mentor", "employer", "city", "college", "hobby", "neighbour", "coach", "tenant", "dentist"]
PLAIN += ["pet", "street", "owner", "office", "tier", "maintainer", "status", "address", "class", "basis", "gas"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_singular_noun_keeps_its_wordings_byte_for_byte(name: str) -> None:
    """Long measurements stand on these texts and on their order."""
    words = general(name)
    assert words.questions == (
        f"What is the {name} of {{subject}}?",
        f"Name the {name} of {{subject}}.",
        f"What {name} does {{subject}} have?",
        f"Tell me the {name} of {{subject}}.",
        f"{{subject}}: which {name}?",
        f"What is {{subject}}'s {name}?",
        f"I would like to know the {name} of {{subject}}.",
        f"Please say which {name} {{subject}} has.",
    )
    assert words.references == (
        f"the {name} of {{subject}}",
        f"{{subject}}'s {name}",
        f"the {name} that {{subject}} has",
        f"the {name} which belongs to {{subject}}",
    )
    assert words.statement == f"The {name} of {{subject}} is {{object}}."
    assert words == general(name, "person"), "what a noun leads to changes nothing"


@pytest.mark.parametrize(
    ("name", "asked", "stated"),
    [
        ("maintainers", "What is the maintainer of X?", "The maintainer of X is Y."),
        ("dependencies", "What is the dependency of X?", "The dependency of X is Y."),
        ("date_of_birth", "What is the date of birth of X?", "The date of birth of X is Y."),
        ("homepage_url", "What is the homepage URL of X?", "The homepage URL of X is Y."),
        ("ownerId", "What is the owner ID of X?", "The owner ID of X is Y."),
        ("is_active", "Is X active?", "Whether X is active: Y."),
        ("has_warranty", "Does X have a warranty?", "Whether X has a warranty: Y."),
        ("can_fly", "Can X fly?", "Whether X can fly: Y."),
        ("depends_on", "What does X depend on?", "X depends on Y."),
        ("depends", "What does X depend on?", "X depends on Y."),
        ("relies_on", "What does X rely on?", "X relies on Y."),
        ("uses", "What does X use?", "X uses Y."),
        ("sells_to", "What does X sell to?", "X sells to Y."),
        ("buys_from", "What does X buy from?", "X buys from Y."),
        ("hr_contact", "What is the HR contact of X?", "The HR contact of X is Y."),
        ("vpn", "What is the VPN of X?", "The VPN of X is Y."),
        ("managed_by", "What is X managed by?", "X is managed by Y."),
        ("is_part_of", "What is X part of?", "X is part of Y."),
        ("member_of", "What is X a member of?", "X is a member of Y."),
    ],
)
def test_names_of_other_kinds_are_asked_in_their_own_way(name: str, asked: str, stated: str) -> None:
    words = general(name)
    assert words.questions[0].format(subject="X") == asked
    assert words.statement.format(subject="X", object="Y") == stated
    assert len(words.questions) == len(set(words.questions)) == 8 and words.references


def test_what_a_relation_leads_to_is_called_by_its_noun() -> None:
    words = general("depends_on", "package")
    assert words.questions[0] == "Which package does {subject} depend on?"
    assert words.references[0] == "the package that {subject} depends on"


def test_a_value_can_stand_for_its_row() -> None:
    words = general("licence", "package", backwards=True)
    assert words.questions[0] == 'Which package has the licence "{subject}"?'
    assert words.references[0] == 'the package with the licence "{subject}"'
    assert words.statement == "The package is {object}." and words.passage == "The licence of {object} is {subject}."
    assert general("uses", "customer", backwards=True).questions[0] == "Which customer uses {subject}?"


def test_rows_are_called_by_their_key_or_by_their_table() -> None:
    assert row_noun("a.csv", "Product {SKU}").format(subject="x") == "product sku"
    assert row_noun("owners.csv", "package") == "package"
    assert row_noun("people.csv", "name") == "person"
    assert row_noun("services/*.md", "title") == "service"
    assert row_noun("staff.xlsx#Team members", "Name") == "team member"
    assert row_noun("crm.sqlite#accounts", "account_id") == "account"
    assert row_noun("*.md", "title") == "row"
    assert row_noun("employees_export_2024-06.csv", "Full Name") == "employee"
    assert row_noun("export.csv", "id") == "export"
    assert row_noun("staff.csv", "full name") == row_noun("staff.csv", "DisplayName") == "staff"
    assert row_noun("x.csv", "customer legal name") == "customer" and row_noun("SALES.csv", "name") == "SALES"


def test_own_words_are_one_line_each() -> None:
    words = {"statement": "{subject} has\n  {object}.\n", "questions": ["What has\n{subject}?\n"]}
    relation = Relation(table="a.csv", column="b", place="index", **words)
    assert relation.statement == "{subject} has {object}." and relation.questions == ["What has {subject}?"]


def test_only_plurals_become_singular() -> None:
    kept = ["boss", "bus", "lens", "canvas", "news", "series", "headquarters", "opening hours", "terms of service"]
    kept += ["GPS", "CMS", "logistics", "web analytics"]
    assert [singular(name) for name in kept] == kept
    assert [singular(n) for n in ("people", "criteria", "employee IDs")] == ["person", "criterion", "employee ID"]
    assert [singular(name) for name in ("topics", "clinics")] == ["topic", "clinic"]
    assert [singular(" ".join(spoken(name))) for name in ("gps", "dns", "sla", "slas")] == ["GPS", "DNS", "SLA", "SLA"]
    assert spoken("homepageUrl") == ["homepage", "URL"] and spoken("%") == ["%"]


def test_a_clause_has_no_genitive_and_no_verb_behind_it(recipe_file: Path) -> None:
    values = skillcompose.Recipe.from_yaml(recipe_file).model_dump(mode="json")
    relations = values["facts"]["relations"]
    relations["needs"] |= {"reference": []}
    recipe = skillcompose.Recipe(**values)
    alone = [wording for split in ("train", "validation", "test") for _, wording in asked("owner", split, recipe)]
    behind = [w for split in ("train", "validation", "test") for _, w in asked("owner", split, recipe, ["needs"])]
    assert len(alone) == 8 and len(behind) == 6
    assert behind[-1].format(subject="what x needs") == "I would like to know the owner of what x needs."
    assert not any("'s" in phrase for phrase in referred("owner", "train", recipe, ["needs"]))
    assert len(asked("owner", "train", recipe, ["size"])) == 6, "behind a noun nothing changes"
    own = [*(f"{{subject}} {n}?" for n in range(2)), "Whose is {subject}'s?", "And {subject}'s?", "{subject}'s owner?"]
    relations["owner"] |= {"questions": own, "reference": own}
    recipe = skillcompose.Recipe(**values)
    for before in ([], ["needs"]):  # what is held out alone is trained on nowhere
        assert [asked("owner", split, recipe, before)[-1][1] for split in ("validation", "test")] == own[-2:]
        trained = [wording for _, wording in asked("owner", "train", recipe, before)]
        assert trained == own[: 2 if before else 3]
        assert referred("owner", "test", recipe, before) == own[-1:]
