"""Known hops asked again: what takes whose place, and what stays."""

import pytest

from skillcompose.generation import Written
from skillcompose.prompts import final_answer
from skillcompose.recall import Recall
from skillcompose.types import Passage

RECALL = Recall(
    [
        ("who maintains {subject}?", "{subject} is maintained by {object}."),
        ("Where does {subject} live?", "{subject} lives in {object}."),
        ("Which is it?", "It is {object}."),  # says nothing of whom
        ("How is {subject} maintained?", "{subject} is maintained {object}."),  # of which the first is a form
    ]
)
READ = [Passage("d#1", "abook", "abook depends on brz. Ann Lee lives in Ulm.", "d.md", "")]
KNOWN = {
    "Who maintains brz?": "brz is maintained by Ann Lee.",
    "Where does Ann Lee live?": "Ann Lee lives in Oslo.",
    "Where does Bo Ek live?": "",
    "Who maintains dhex?": "I cannot say.",
}


def said(text: str) -> Written:
    return Written(text, [0.5] * (text.count("\n") + 1))


def again(text: str, read: list[Passage] = READ) -> tuple[Written, list[str]]:
    asked: list[str] = []

    def ask(prompts: list[str]) -> list[Written]:
        asked.extend(prompt.removeprefix("Question: ").removesuffix("\nAnswer:\n") for prompt in prompts)
        return [Written(KNOWN[question], [0.8]) for question in asked[-len(prompts) :]]

    (found,) = RECALL.again([said(text)], [read], ask)
    return found, asked


def test_a_known_hop_is_replaced_and_what_is_read_is_not_asked() -> None:
    found, asked = again("abook depends on brz.\nbrz is maintained by Bo Ek.\nSo: Bo Ek")
    assert asked == ["Who maintains brz?"]
    assert found.text == "abook depends on brz.\nbrz is maintained by Ann Lee.\nSo: Ann Lee"
    assert found.lines == [0.5, 0.8, 1.0]  # as first said; as said again; a copy of that


def test_the_hop_behind_one_that_changed_is_asked_about_the_new_one() -> None:
    said = "brz is maintained by Bo Ek.\nBo Ek lives in Rome.\nSo: Rome"
    found, asked = again(said, [])
    assert asked == ["Who maintains brz?", "Where does Ann Lee live?"]
    assert found.text == "brz is maintained by Ann Lee.\nAnn Lee lives in Oslo.\nSo: Oslo"


def test_what_changed_is_the_subject_of_every_hop_behind_it_and_the_answer_only_where_it_was() -> None:
    found, asked = again("brz is maintained by Bo Ek.\nabook is needed by brz.\nBo Ek lives in Rome.\nSo: brz", [])
    assert asked == ["Who maintains brz?", "Where does Ann Lee live?"]
    assert found.text == "brz is maintained by Ann Lee.\nabook is needed by brz.\nAnn Lee lives in Oslo.\nSo: brz"


def test_a_passage_that_names_both_sides_may_have_been_read() -> None:
    given = [Passage("g#1", "Passage 1", "brz came in 2020. Bo Ek looks after it.", "given", "")]
    assert again("brz is maintained by Bo Ek.\nSo: Bo Ek", given)[1] == []


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("brz is maintained by Bo Ek.", []),  # not an answer
        ("Ann Lee lives in Ulm.\nSo: Ulm", []),  # a passage says so
        ("It is brz.\nSo: brz", []),
        ("dhex is maintained by Bo Ek.\nSo: Bo Ek", ["Who maintains dhex?"]),  # what comes back says nothing
        ("brz is maintained by Bo Ek.\nBo Ek likes tea.\nSo: tea", ["Who maintains brz?"]),  # not what Ann likes
        ("Who lives in Ulm lives in Rome.\nSo: Rome", []),  # who lives where?
        ("Bo Ek lives in Rom.\nSo: Rom", ["Where does Bo Ek live?"]),  # what comes back was cut
        ("The passages do not say.\nSo: not in the passages", []),
    ],
)
def test_an_answer_stays_where_nothing_better_is_known(text: str, asked: list[str]) -> None:
    found, questions = again(text)
    assert found.text == text and questions == asked


def test_what_is_shown_early_is_not_taken_back() -> None:
    whole = "abook depends on brz.\nbrz is maintained by Bo Ek.\nSo: Bo Ek"
    found, _ = again(whole)
    for size in range(len(whole)):
        shown = RECALL.settled(whole[:size], READ)
        assert found.text.startswith(shown) and shown in ("", "abook depends on brz.\n")
    assert final_answer(found.text) == "Ann Lee"
