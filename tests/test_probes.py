"""Probes: known facts backwards and atomic questions in other words, asked in the test only."""

import random
from pathlib import Path

import skillcompose
from skillcompose.evaluation import summarise
from skillcompose.evaluation.ladder import judged
from skillcompose.questions.probes import REWORDINGS, reversed_probes, reworded
from skillcompose.results import confidence_text, held_out_text, probes_text
from skillcompose.run import Run
from skillcompose.types import Fact, Level, Question, Skill, read_json, read_jsonl


def test_a_known_fact_is_reversed_where_its_value_names_one_row(recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    pairs = [("brol", "Ann"), ("dimpa", "Bo"), ("fenk", "Bo")]
    facts = [Fact(f"owner:{p}", p, "owner", o, Skill.PARAMETRIC, p, "owners.csv:2") for p, o in pairs]
    (probe,) = reversed_probes(facts, recipe, 9, random.Random(0))
    assert probe.answers == ("brol",) and "package" in probe.text and '"Ann"' in probe.text
    assert probe.completion == "The owner of brol is Ann.\nSo: brol"
    both = recipe.model_dump(mode="json")
    both["facts"]["relations"]["of_owner"] = both["facts"]["relations"]["owner"] | {"reversed": True}
    assert not reversed_probes(facts, skillcompose.Recipe(**both), 9, random.Random(0)), "it is trained both ways"


def test_reworded_questions_keep_their_answers_and_are_in_no_training_row(finished_run: Path) -> None:
    run = Run.open(finished_run)
    asked = read_jsonl(run.stage("questions") / "contextual.test.jsonl", Question)
    found = reworded(asked, len(REWORDINGS), random.Random(0))
    trained = read_jsonl(run.stage("questions") / "contextual.train.jsonl", Question)
    assert len({q.text for q in found}) == min(len(asked), len(REWORDINGS))
    assert not {q.text for q in found} & {q.text for q in [*asked, *trained]}
    by_id = {q.id: q for q in asked}
    assert all(by_id[q.id.removeprefix("reworded:")].answers == q.answers for q in found)


def test_probes_are_reported_on_their_own(finished_run: Path) -> None:
    metrics = read_json(Run.open(finished_run).stage("evaluation") / "metrics.json")
    assert metrics["composed"]["reworded"]["asked"] == 2 and metrics["parametric"]["reworded"]["asked"] == 1
    assert "reworded probes: parametric adapter" in probes_text(metrics)
    assert probes_text({"composed": {}}) == ""


def test_right_answers_are_counted_above_a_confidence() -> None:
    question = Question("q", "Who?", ("Ann",), "", Skill.COMPLEMENTARY, "uses > owner", ("f",), level=Level.IID)
    found = [(True, 0.9), (False, 0.6), (True, 0.5), (True, 0.4), (False, 0.1)]
    metrics = summarise([judged("composed", question, "", correct, sure) for correct, sure in found])
    assert confidence_text(metrics["composed"]) == (
        "Right answers by confidence: 3 of 5 in all; of 0.3 and more: 3 of 4; of 0.5 and more: 2 of 3; "
        "of 0.7 and more: 1 of 1."
    )
    assert confidence_text({}) == held_out_text({}) == held_out_text({"unseen": {"iid": {}}}) == ""
    assert held_out_text({"unseen": {"zero_shot": {"asked": 1}}}).endswith("questions.hold_out=false.")
