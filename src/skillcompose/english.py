"""What a column's name means in English: general wordings of any relation, for recipes that give none.

Numbers, articles and verb forms come from `inflect`; what kind of name it is (noun, verb, yes or no) is decided by few
rules. A plain singular noun keeps the wordings that it always had, byte for byte: measurements stand on them.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillcompose.recipe import Recipe
    from skillcompose.sections import Relation

NOUN = (
    "What is the {name} of {{subject}}?",
    "Name the {name} of {{subject}}.",
    "What {name} does {{subject}} have?",
    "Tell me the {name} of {{subject}}.",
    "{{subject}}: which {name}?",
    "What is {{subject}}'s {name}?",
    "I would like to know the {name} of {{subject}}.",
    "Please say which {name} {{subject}} has.",
)
NOUN_REFERENCE = (
    "the {name} of {{subject}}",
    "{{subject}}'s {name}",
    "the {name} that {{subject}} has",
    "the {name} which belongs to {{subject}}",
)
VERB = (
    "{which} {aux} {{subject}} {base}?",
    "Name {the} {{subject}} {phrase}.",
    "Tell me {the} {{subject}} {phrase}.",
    "{{subject}} {phrase} {which}?",
    "What is {the} {{subject}} {phrase}?",
    "I would like to know {which} {{subject}} {phrase}.",
    "Please say {which} {{subject}} {phrase}.",
    "Can you name {the} {{subject}} {phrase}?",
)
VERB_REFERENCE = ("what {{subject}} {phrase}", "whatever {{subject}} {phrase}", "the one that {{subject}} {phrase}")
VERB_REFERENCE_NOUN = (
    "the {noun} that {{subject}} {phrase}",
    "what {{subject}} {phrase}",
    "the {noun} which {{subject}} {phrase}",
    "the one {noun} that {{subject}} {phrase}",
    "the {noun} {{subject}} {phrase}",
)
YES_OR_NO = (
    "{Aux} {{subject}} {rest}?",
    "Tell me whether {{subject}} {phrase}.",
    "Say whether {{subject}} {phrase}.",
    "Is it true that {{subject}} {phrase}?",
    "Is it so that {{subject}} {phrase}?",
    "Please tell me whether {{subject}} {phrase}.",
    "I would like to know whether {{subject}} {phrase}.",
    "Can you say whether {{subject}} {phrase}?",
)
BACKWARDS = (
    "Which {noun} {claim}?",
    "Name the {noun} that {claim}.",
    "Tell me the {noun} that {claim}.",
    "What is the {noun} that {claim} called?",
    "I would like to know which {noun} {claim}.",
    "Please name the {noun} that {claim}.",
    "Can you say which {noun} {claim}?",
    "Please say which {noun} {claim}.",
)
BACKWARDS_REFERENCE = (
    "the {noun} that {claim}",
    "the {noun} which {claim}",
    "the one {noun} that {claim}",
    "whichever {noun} {claim}",
)
WITH_REFERENCE = (
    'the {noun} with the {name} "{{subject}}"',
    "the {noun} that {claim}",
    "the {noun} which {claim}",
    'the one {noun} with the {name} "{{subject}}"',
    'the {noun} whose {name} is "{{subject}}"',
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ACRONYMS = _set(
    "api aws bic ceo cfo cms cpu crm cto cve dns erp eta eu faq fte gps gpu hq hr html http iban id ip isbn iso json "
    "kpi os pdf pos qa ram sku sla sms sql ssn uk uri url usa usb uuid vat vpn"
)
NAMELESS = _set("name title id key code no number document slug label")
"""Columns that name a row without saying what it is."""
KINDS_OF_NAME = _set("full first last short long display legal common")
KINDS_OF_TABLE = _set("data dump export extract list table")
PREPOSITIONS = _set("at by for from in of on to under until with")
TAILS = {"depends": "on", "relies": "on", "belongs": "to", "reports": "to", "consists": "of"}
VERBS = _set(
    "approves buys contains covers employs enables extends governs hires implements includes inherits knows "
    "likes loves maintains makes manages needs owns precedes produces provides recommends replaces represents "
    "requires sells serves speaks suggests supervises supplies supports teaches treats uses wants"
)
KEPT = _set(
    "alias analytics atlas bias canvas data economics electronics ethics gas genetics goods headquarters hours lens "
    "linguistics logistics mathematics means news physics politics premises robotics sales series species"
)
"""Words that look like plurals and are none, or are never said in the singular."""


@dataclass(frozen=True)
class Words:
    """How a relation is asked for, referred to and stated; `passage` is empty where it reads like the statement."""

    questions: tuple[str, ...]
    references: tuple[str, ...]
    statement: str
    passage: str = ""
    clausal: bool = False
    """The references end in a clause: "the package that X uses" has no genitive."""


@cache
def general(relation: str, noun: str = "", backwards: bool = False) -> Words:
    """General words of a relation.

    Args:
        relation: Its name: `maintainer`, `depends_on`, `is_active`, `homepageUrl`.
        noun: What its object is called, "package"; for `backwards` it must be given.
        backwards: The subject is the value and the object its row: "Which package has the licence MIT?"
    """
    words = spoken(relation)
    name = " ".join(words)
    verb = _verb(words)
    if backwards:
        name = singular(name)
        # Quoted, because the value may be a whole description.
        claim = f"{verb[3]} {{subject}}" if verb else f'has the {name} "{{subject}}"'
        said = {"name": name, "noun": noun, "claim": claim}
        refer: tuple[str, ...] = BACKWARDS_REFERENCE if verb else WITH_REFERENCE
        stated = f"{{object}} {verb[3]} {{subject}}." if verb else f"The {name} of {{object}} is {{subject}}."
        return Words(_filled(BACKWARDS, **said), _filled(refer, **said), f"The {noun} is {{object}}.", stated, True)
    if verb:
        meant, aux, base, phrase = verb
        noun = meant or noun
        said = {
            "noun": noun,
            "aux": aux,
            "base": base,
            "phrase": phrase,
            "which": f"which {noun}" if noun else "what",
            "the": f"the {noun} that" if noun else "what",
        }
        asked = [template.format(**said) for template in VERB]
        if not noun:  # "What is what X uses?"
            asked[4] = f"What is it that {{subject}} {phrase}?"
        refer = VERB_REFERENCE_NOUN if noun else VERB_REFERENCE
        asked[0] = asked[0][0].upper() + asked[0][1:]
        return Words(tuple(asked), _filled(refer, **said), f"{{subject}} {phrase} {{object}}.", clausal=True)
    if words[0] in ("is", "has", "can") and len(words) > 1:
        rest = " ".join(words[1:])
        aux, bare, full = words[0], rest, rest
        if aux == "has":
            full = _with_article(rest)
            aux, bare = "does", f"have {full}"
        answered = _filled(YES_OR_NO, Aux=aux.capitalize(), rest=bare, phrase=f"{words[0]} {full}")
        clause = f"whether {{subject}} {words[0]} {full}"
        return Words(
            answered, (clause, f"the answer to {clause}"), f"Whether {{subject}} {words[0]} {full}: {{object}}."
        )
    name = singular(name)
    refer = _filled(NOUN_REFERENCE, name=name)
    return Words(_filled(NOUN, name=name), refer, f"The {name} of {{subject}} is {{object}}.")


def _filled(templates: tuple[str, ...], **names: str) -> tuple[str, ...]:
    return tuple(template.format(**names) for template in templates)


def spoken(name: str) -> list[str]:
    """`ownerId` -> owner, ID; `Date_of_Birth` -> date, of, birth."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").split()
    return [_word(word) for word in words] or [name]


def _word(word: str) -> str:
    if word.lower() in ACRONYMS:
        return word.upper()
    if word.lower().removesuffix("s") in ACRONYMS:
        return word[:-1].upper() + "s"
    return word.lower() if word.istitle() else word


def singular(name: str) -> str:
    """`maintainers` -> maintainer: a question has one answer. What is no plural stays as it is."""
    *before, last = name.split(" ")
    if "of" in before or last in KEPT or last.isupper() or re.search(r"(ss|us|is)$", last):
        return name
    if last[:-1].isupper() and last.endswith("s"):  # IDs
        return " ".join([*before, last[:-1]])
    one = str(_inflect().singular_noun(last) or "") if last.isascii() and last.isalpha() else ""
    # Both ways, because words that only look like plurals ("gas") come out as something else.
    return " ".join([*before, one]) if one and _inflect().plural_noun(one) == last else name


def _verb(words: list[str]) -> tuple[str, str, str, str] | None:
    """(noun of the object where the name says it, auxiliary, what stands behind the subject, the finite phrase)."""
    if len(words) == 1 and words[0] in TAILS:
        words = [words[0], TAILS[words[0]]]
    first, last = words[0], words[-1]
    if first in VERBS and last not in PREPOSITIONS:  # what X sells, and to whom
        return " ".join(words[1:]), "does", _inflect().plural_verb(first), first
    if len(words) < 2 or last not in PREPOSITIONS:
        return None
    if first == "is":
        words = words[1:]
    elif first.endswith("s") and not first.endswith("ss") and (base := _inflect().plural_verb(first)) != first:
        return "", "does", " ".join([base, *words[1:]]), " ".join(words)
    rest = " ".join(words)
    if last == "of" and words[0] != "part":
        rest = _with_article(rest)
    return "", "is", rest, f"is {rest}"


def _with_article(phrase: str) -> str:
    """`warranty` -> a warranty; plurals have none."""
    return phrase if singular(phrase) != phrase else str(_inflect().a(phrase))


@cache
def _inflect() -> Any:
    import inflect

    return inflect.engine()


@cache
def row_noun(table: str, key: str) -> str:
    """What a row of a table is called: by its key column, or by the table where the key is just a `name`.

    `people.csv` -> person, `services/*.md` -> service, `staff.xlsx#Team members` -> team member.
    """
    words = spoken(key)
    if words[-1].lower() in NAMELESS:
        words = [word for word in words[:-1] if word.lower() not in KINDS_OF_NAME]
    if not words:
        file, _, part = table.partition("#")
        stem = file.rsplit(".", 1)[0]
        named = [name for name in stem.split("/") if not re.search(r"[*?\[]", name)]
        words = spoken(part or (named[-1] if named else "row"))
        said = (word for word in words if not re.search(r"\d", word) and word.lower() not in KINDS_OF_TABLE)
        words = list(said) or words
    noun = singular(" ".join(words).lower() if len(words) > 1 else words[0])
    return re.sub(r"[{}]", "", noun)  # it becomes part of templates


def words_of(relation: str, recipe: "Recipe") -> Words:
    """A relation's words: the recipe's own where it gives some, general ones for the rest."""
    found = recipe.relation(relation)
    # A row that is spoken of by a value is its own passage's title: a statement without the value would not say it.
    stated = found.statement if not found.reversed or "{subject}" in found.statement else ""
    made = general(relation, object_noun(found, recipe), found.reversed)
    return Words(
        tuple(found.questions) or made.questions,
        tuple(found.reference) or made.references,
        found.statement or made.statement,
        # Own words for a hop are own words for a passage too.
        found.passage or stated or made.passage or made.statement,
        made.clausal and not found.reference,
    )


def object_noun(relation: "Relation", recipe: "Recipe") -> str:
    """What the objects of a relation are called: rows of its own table when reversed, of the one that it leads to."""
    table = relation.table if relation.reversed else relation.leads_to
    return row_noun(table, recipe.facts.tables[table].key) if table else ""
