"""Why an answer is wrong, and whether RL made the right ones possible or only likelier."""

import math
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from markupsafe import escape

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks" / "diagnosis"))
import pass_at_k
import planted
import prerequisite

from skillcompose.errors import RunError
from skillcompose.evaluation import attribution
from skillcompose.evaluation.attribution import Conflicts, without_support
from skillcompose.evaluation.breaks import Breaks, advice
from skillcompose.evaluation.pass_at_k import as_text, estimate, measure, named, verdict
from skillcompose.evaluation.report import warnings, write_diagnosis
from skillcompose.generation import Sampling, generate, sample_counts
from skillcompose.models import load_base, load_tokenizer
from skillcompose.pipeline import load_recipe
from skillcompose.run import Run
from skillcompose.sections import Mastery
from skillcompose.types import Fact, Question, Skill, read_jsonl, write_json


def test_pass_at_k_counts_whole_chains_and_goes_on_where_it_was(finished_run: Path) -> None:
    assert [estimate(4, right, 2) for right in (0, 1, 3)] == [0.0, 0.5, 1.0]
    run = Run.open(finished_run)
    merged = run.stage("composition") / "merged"
    found = measure(run, 8, 2, others={"merged": merged})
    for result in found.values():
        assert result["verdicts"].keys() == {"traced", "composed", "merged"}
        for judged in result["verdicts"].values():
            assert judged["verdict"] == "undecided", "two questions decide nothing"
        assert result["curves"]["start"]["k"] == [1, 2, 4, 8]
        assert result["curves"]["chance"]["share"] == sorted(result["curves"]["chance"]["share"])
    assert "composed is" in as_text(found) and "merged is" in as_text(found)
    records = sorted((run.folder / "diagnosis").glob("*.jsonl"))
    assert len(records) == 4
    lines = records[0].read_text().splitlines()
    records[0].write_text("\n".join([*lines[:-1], lines[-1][:9]]) + "\n")
    assert measure(run, 8, 2).keys() == found.keys()
    assert list(named([run.stage("composition") / "composed"])) == [f"{run.folder.name}-06-composition-composed"]
    with pytest.raises(RunError, match="of the same name"):
        named([merged, merged])
    with pytest.raises(RunError, match="nothing to sample"):
        measure(run, 8, 2, levels=())


def test_samples_that_agree_are_counted_once_and_unwanted_ones_are_given_up(finished_run: Path) -> None:
    base = load_recipe(Run.open(finished_run)).model
    model, tokenizer = load_base(base), load_tokenizer(base)
    prompts = tokenizer(["Question: Who?\nAnswer:\n", "Which?\n"]).input_ids
    greedy = generate(model, tokenizer, prompts, 1, Sampling(6))
    found = sample_counts(model, tokenizer, prompts, 5, Sampling(6), lambda number, ids: ids[:1] == greedy[number][:1])
    assert found == [[(ids, 5)] for ids in greedy]
    assert sample_counts(model, tokenizer, prompts, 5, Sampling(6), lambda number, ids: len(ids) < 3) == [[], []]

    torch.manual_seed(0)
    (first, second) = sample_counts(model, tokenizer, prompts, 2000, Sampling(2, 1.0), lambda number, ids: True)
    assert sum(count for _, count in first) == sum(count for _, count in second) == 2000
    share = Counter({ids[0]: 0 for ids, _ in first})
    for ids, count in first:
        share[ids[0]] += count
    with torch.inference_mode():
        expected = model(torch.tensor([prompts[0]])).logits[0, -1].float().softmax(-1)
    for token, p in zip(*(column.tolist() for column in expected.topk(5)[::-1]), strict=True):
        assert abs(share[token] - 2000 * p) < 5 * math.sqrt(2000 * p) + 1, "samples have the model's distribution"


def test_the_first_wrong_hop_has_a_place_and_a_cause() -> None:
    read = Fact("needs:a", "a", "needs", "b", Skill.CONTEXTUAL, "a", "t:2")
    known = Fact("owner:b", "b", "owner", "Ann", Skill.PARAMETRIC, "b", "t:3")
    other = Fact("owner:c", "c", "owner", "Bo", Skill.PARAMETRIC, "c", "t:4")
    asked = Question(
        "q", "Who owns what a needs?", ("Ann",), "a needs b.\nb is owned by Ann.\nSo: Ann",
        Skill.COMPLEMENTARY, "needs > owner", (read.id, known.id), subject="a", bridges=("b",),
    )  # fmt: skip
    finder = Breaks([read, known, other])
    for completion, fact, cause in (
        ("a needs c.\nc is owned by Bo.\nSo: Bo", read, "misread"),
        ("a needs b.\nb is owned by Bo.\nSo: Bo", known, "recalled from a neighbour"),
        ("a needs b.\nb is owned by Zoe.\nSo: Zoe", known, "not recalled"),
        ("a needs b.\nSo: b", known, "stopped early"),
        ("a needs b.\nb is owned by Ann.\nSo: b", known, "final line"),
    ):
        assert finder.first(asked, completion) == (fact, cause)
    assert finder.first(replace(asked, retrieved=False), "a needs c.") == (read, "not retrieved")
    assert advice([(known, "not recalled"), (read, "misread"), (known, "not recalled")]).startswith(
        "67 % of what is left is: not recalled (`owner`). Next: teach `owner`"
    )


def test_a_conflicting_passage_leads_to_another_answer_and_a_removed_one_nowhere(finished_run: Path) -> None:
    run = Run.open(finished_run)
    facts = read_jsonl(run.stage("facts") / "facts.jsonl", Fact)
    asked = read_jsonl(run.stage("questions") / "complementary.test.jsonl", Question)
    conflicts, rng = Conflicts(facts, load_recipe(run)), random.Random(0)
    made = [(found, q) for q in asked if (found := conflicts.make(q, rng))]
    assert made
    for found, question in made:
        before, after = (" ".join(p.text for p in q.passages) for q in (question, found))
        assert question.bridges[0] in before and before != after
        assert found.answers != question.answers and found.text == question.text
    by_id = {fact.id: fact for fact in facts}
    for question in (q for q in asked if q.retrieved):
        left = without_support(question, by_id).passages
        assert len(left) == len(question.passages) - 1
        assert by_id[question.fact_ids[0]].key not in {p.title for p in left}


def test_attribution_asks_the_policies_and_full_rag_four_ways(finished_run: Path) -> None:
    found = attribution.measure(Run.open(finished_run), 3)
    assert set(found) == {"start", "composed", "full RAG"}
    assert set(found["start"]) == set(attribution.MEANING)
    assert all(0 <= cell["share"] <= 1 for rung in found.values() for cell in rung.values())
    assert "conflict, passage followed" in attribution.as_text(found)


def test_the_diagnosis_is_a_page(finished_run: Path) -> None:
    run = Run.open(finished_run)
    measure(run, 8, 2)
    attribution.measure(run, 3)
    page = write_diagnosis(run.folder / "diagnosis", "tiny <b>").read_text()
    assert page.count("<svg") == 2 and "tiny &lt;b&gt;" in page
    assert "undecided" in page and all(escape(meaning) in page for meaning in attribution.MEANING.values())


def test_the_report_warns_of_what_the_gate_stops_and_of_nothing_else(tmp_path: Path) -> None:
    rows = [{"hops": 1, "correct": 47, "asked": 60}, {"hops": 2, "correct": 20, "asked": 60}]
    for stage in ("adapters", "composition"):
        (tmp_path / stage).mkdir()
        write_json(tmp_path / stage / "mastery.json", {"parametric": rows, "contextual": rows[:1]})
    write_json(tmp_path / "composition" / "training.json", {"collapsed": None})
    gate = SimpleNamespace(mastery=Mastery(parametric=[0.8, 0.5]))
    work = SimpleNamespace(recipe=SimpleNamespace(adapters=gate, composition=gate), read=tmp_path.joinpath)
    found = warnings(work)
    assert len(found) == 2 and all("parametric, 2 hops, 20 of 60 where 50%" in line for line in found)


def test_a_verdict_needs_a_difference_and_enough_bridges() -> None:
    asked = [
        Question(str(i), "?", ("a",), "So: a", Skill.COMPLEMENTARY, "x > y", ("x", "y"), bridges=(f"b{i}",))
        for i in range(80)
    ]
    none, some, every = ({q.id: count for q in asked} for count in (0, 1, 8))
    assert verdict(asked, none, every, 8)["verdict"] == "synthesised"
    assert verdict(asked, some, every, 8)["verdict"] == "amplified"
    assert verdict(asked, none, none, 8)["verdict"] == "undecided"
    assert verdict(asked[:5], none, every, 8)["verdict"] == "undecided"
    assert verdict(asked[:40], some, every, 8)["verdict"] == "undecided", "forty alike do not exclude five points"


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_policies_get_the_right_verdict_and_the_right_blame(seed: int) -> None:
    assert planted.judged(seed) == dict.fromkeys(("knows", "reads", "guesses", "amplifies"), (True, True))


def test_what_sampling_takes_is_claimed_only_where_one_call_sampled_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[str] = []
    monkeypatch.setattr(pass_at_k, "measure", lambda *given: {"zero_shot": {"curves": {}}})
    monkeypatch.setattr(pass_at_k, "as_text", str)
    monkeypatch.setattr(pass_at_k, "write_json", lambda *given: None)
    monkeypatch.setattr(pass_at_k.claims, "write", lambda claim, *given: claimed.append(claim))
    monkeypatch.setattr(sys, "argv", ["pass_at_k.py", "--run", str(tmp_path)])
    pass_at_k.main()
    assert claimed == ["diagnosis.sampling_minutes"]
    (tmp_path / "diagnosis").mkdir()
    (tmp_path / "diagnosis" / "start-0.jsonl").touch()
    pass_at_k.main()
    assert claimed == ["diagnosis.sampling_minutes"]


def test_the_plot_of_the_prerequisite_takes_an_interval_beside_its_centre(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prerequisite, "FILE", tmp_path / "prerequisite.json")
    cell = {"macro": 50.0, "interval": [50.4, 60.0]}
    mastery = {skill: [{"correct": 1, "asked": 2}] for skill in ("parametric", "contextual")}
    prerequisite.plot([{"skill": "parametric", "mastery": mastery, "start": cell, "composed": cell}])
    assert (tmp_path / "prerequisite.png").is_file()


def test_a_point_that_is_killed_while_it_is_copied_is_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        (target / "stage.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(prerequisite, "WHOLE", tmp_path / "whole")
    monkeypatch.setattr(prerequisite.skillcompose, "train", lambda *given, **more: Run(tmp_path / "whole"))
    monkeypatch.setattr(prerequisite.shutil, "copytree", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prerequisite.measure(Skill.PARAMETRIC, 0.5)
        assert not (tmp_path / "whole-parametric-0.5").exists()
