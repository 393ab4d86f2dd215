"""The whole pipeline on a tiny world: what it writes, what it skips, and that a kill changes nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import skillcompose
from skillcompose.errors import ModelError, RunError
from skillcompose.evaluation import ladder
from skillcompose.generation import Written, completions
from skillcompose.pipeline import load_recipe
from skillcompose.run import STAGE_NAMES, Run
from skillcompose.stages import STAGES, stage_key
from skillcompose.training import check_settings
from skillcompose.types import Question, Skill, read_json, read_jsonl


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_stage_finishes_and_leaves_no_scratch(finished_run: Path) -> None:
    run = Run.open(finished_run)
    for name in STAGE_NAMES:
        assert run.record(name), name
        assert not (run.stage(name) / "work").exists()
    metrics = json.loads((run.stage("evaluation") / "metrics.json").read_text())
    assert {"base_passages", "start", "traced", "composed", "full_rag_untuned", "floor_majority"} <= set(metrics)
    assert "<svg" in (run.stage("evaluation") / "report.html").read_text()


def test_second_train_skips_everything_with_a_reason(finished_run: Path, recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    steps = skillcompose.plan(recipe, finished_run)
    assert [step.runs for step in steps] == [False] * 7
    assert all("up to date" in step.reason for step in steps)


def test_a_changed_setting_reruns_its_stage_only(finished_run: Path, recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"evaluation.ladder": 3})
    runs = {step.name for step in skillcompose.plan(recipe, finished_run) if step.runs}
    assert runs == {"evaluation"}
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"composition.ema_decay": 0.5})
    runs = {step.name for step in skillcompose.plan(recipe, finished_run) if step.runs}
    assert runs == {"composition", "evaluation"}
    gate = skillcompose.Recipe.from_yaml(recipe_file, {"adapters.mastery.parametric": [0.1, 0.1]})
    assert not any(step.runs for step in skillcompose.plan(gate, finished_run))


def test_a_stage_that_is_none_and_a_run_inside_its_knowledge_base_are_refused(recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    with pytest.raises(ValueError, match="no stage 'question'; there are passages"):
        skillcompose.train(recipe, until="question")
    with pytest.raises(RunError, match="would read its own results"):
        skillcompose.train(recipe, recipe.folder / "runs" / "tiny")


def test_another_base_makes_stale_what_was_trained_on_it(
    tmp_path: Path, recipe_file: Path, finished_run: Path, tiny_model: Path
) -> None:
    base, run = tmp_path / "base", Run(shutil.copytree(finished_run, tmp_path / "run"))
    shutil.copytree(tiny_model, base)
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"model": str(base)})
    skillcompose.train(recipe, run.folder, until="passages")
    assert run.record("questions") is None and run.record("composition") is None
    before = stage_key(STAGES[3], recipe, run)
    weights = load_file(base / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, base / "model.safetensors", {"format": "pt"})
    assert stage_key(STAGES[3], recipe, run) != before
    (run.folder / "recipe.json").write_text('{"name": ')
    with pytest.raises(RunError, match="is damaged"):
        load_recipe(run)


def test_weights_facts_are_in_no_passage_and_test_bridges_in_no_training_question(finished_run: Path) -> None:
    run = Run.open(finished_run)
    facts = lines(run.stage("facts") / "facts.jsonl")
    passages = lines(run.stage("index") / "passages.jsonl")
    for fact in facts:
        if fact["skill"] == Skill.PARAMETRIC and fact["relation"] == "owner":
            assert not any(fact["object"] in p["text"] for p in passages)
    folder = run.stage("questions")
    split = {s: read_jsonl(folder / f"complementary.{s}.jsonl", Question) for s in ("train", "validation", "test")}
    trained = {bridge for s in ("train", "validation") for q in split[s] for bridge in q.bridges}
    assert not trained & {bridge for q in split["test"] if not q.seen for bridge in q.bridges}
    subjects = {s: {q.fact_ids[0].split(":", 1)[1] for q in split[s]} for s in split}
    assert not subjects["train"] & (subjects["validation"] | subjects["test"])
    used = {fact_id for s in split for q in split[s] for fact_id in q.fact_ids}
    rows = read_jsonl(folder / "contextual.train.jsonl", Question)
    assert not used & {fact_id for row in rows for fact_id in row.fact_ids}
    assert any(row.answers == ("not in the passages",) for row in rows)


def test_an_interrupted_evaluation_asks_no_rung_again(
    tmp_path: Path, recipe_file: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    folder = tmp_path / "run" / "07-evaluation"
    before = (folder / "predictions.jsonl").read_bytes()
    asked: list[str] = []

    def answered(*arguments: Any) -> list[Written]:
        asked.append(arguments[5])
        if len(asked) == 4:
            raise KeyboardInterrupt
        return completions(*arguments)

    monkeypatch.setattr(ladder, "completions", answered)
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    with pytest.raises(KeyboardInterrupt):
        skillcompose.train(recipe, tmp_path / "run", force="evaluation", allow_unmastered=True)
    skillcompose.train(recipe, tmp_path / "run", force="evaluation", allow_unmastered=True)
    assert asked[:3] == ["untuned_chat", "base_passages", "parametric"] and asked[3] == asked[4]
    assert not {"untuned_chat", "base_passages"} & set(asked[3:]), "what was answered is kept"
    assert (folder / "predictions.jsonl").read_bytes() == before
    assert not (folder / "work").exists()


def test_another_composition_is_asked_and_nothing_else(
    tmp_path: Path, recipe_file: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    asked: list[str] = []

    def answered(*arguments: Any) -> list[Written]:
        asked.append(arguments[5])
        return completions(*arguments)

    used: set[str] = set()

    def read(path: Path) -> Any:
        used.add(path.name)
        return read_json(path)

    monkeypatch.setattr(ladder, "completions", answered)
    monkeypatch.setattr(ladder, "read_json", read)
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"composition.ema_decay": 0.0})
    answers = tmp_path / "run" / "07-evaluation" / "answers"
    before = {path.name for path in answers.iterdir()}
    skillcompose.train(recipe, tmp_path / "run", allow_unmastered=True)
    assert set(asked) == {"composed"}
    kept = {path.name for path in answers.iterdir()}
    assert before - kept and kept == used, "answers of the old policy are removed"
    assert len(kept - before) == len(asked)


def test_policy_answers_with_hops_and_citations(finished_run: Path) -> None:
    answer = skillcompose.Policy.from_run(finished_run).answer("What is the size of the red clock program?")
    assert answer.prompt.endswith("Answer:\n")
    assert len(answer.passages) == 2
    assert answer.passages[0].passage.source
    assert answer.completion


def test_a_run_is_used_from_another_folder_than_it_was_trained_in(
    recipe_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "r.yaml").write_text(recipe_file.read_text().replace(str(tiny_model), "./model"))
    monkeypatch.chdir(tmp_path)
    run = skillcompose.train(skillcompose.Recipe.from_yaml("r.yaml"), tmp_path / "run", until="facts")
    monkeypatch.chdir("/")
    recipe = load_recipe(run)
    assert recipe.base() == str((tmp_path / "model").resolve())


def test_where_bf16_is_fast_the_policy_answers_in_it(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = skillcompose.Policy.from_run(finished_run)
    monkeypatch.setattr("skillcompose.models.fast_dtype", lambda: torch.bfloat16)
    fast = skillcompose.Policy.from_run(finished_run)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        wanted, found = (policy.model(ids).logits.float() for policy in (exact, fast))
    assert fast.model.dtype == torch.bfloat16
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.02
    assert fast.answer("What is the size of brol?").completion


def test_the_examples_run_as_they_stand(tmp_path: Path, recipe_file: Path, finished_run: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    examples, run = Path(__file__).parents[1] / "examples", str(tmp_path / "run")
    question = "What is the size of the red clock program?"
    for name, arguments in (("01_train.py", [str(recipe_file), run]), ("02_ask.py", [run, question])):
        done = subprocess.run(
            [sys.executable, str(examples / name), *arguments], capture_output=True, text=True, env=os.environ
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_checking_a_recipe_warns_of_nothing_that_is_not_the_users(
    recipe_file: Path, recwarn: pytest.WarningsRecorder
) -> None:
    check_settings(skillcompose.Recipe.from_yaml(recipe_file))
    assert not recwarn.list


def test_one_card_is_to_be_named(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ModelError, match="CUDA_VISIBLE_DEVICES"):
        check_settings(skillcompose.Recipe.from_yaml(recipe_file))
