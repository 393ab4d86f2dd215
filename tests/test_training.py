"""Training through the whole pipeline: gates, gold traces, RL, rewards, processes, dtypes."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from test_pipeline import lines

import skillcompose
from skillcompose import composition
from skillcompose.adapters import rows_of
from skillcompose.adapters.processes import AllCores
from skillcompose.composition.rewards import own_reward
from skillcompose.errors import MasteryError, RecipeError, TrainingError
from skillcompose.pipeline import plan
from skillcompose.progress import Progress
from skillcompose.run import Run
from skillcompose.stages import Work
from skillcompose.training import check_questions, check_settings, complementary_questions
from skillcompose.types import Question, Skill, read_json, read_jsonl


def test_an_adapter_learns_no_fact_behind_its_subject(recipe_file: Path, finished_run: Path) -> None:
    run = Run(finished_run)
    work = Work(skillcompose.Recipe.from_yaml(recipe_file), run.stage("adapters"), run, Progress())
    rows = read_jsonl(run.stage("questions") / "parametric.train.jsonl", Question)
    named = sum(row.id.startswith("named:") for row in rows)
    assert named and sum(map(len, rows_of(work, Skill.PARAMETRIC))) == len(rows) - named


def test_the_mastery_gate_stops_the_run_says_what_to_change_and_retrains_nothing(
    tmp_path: Path, recipe_file: Path, finished_run: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    stage = tmp_path / "run" / "05-adapters"
    record = json.loads((stage / "stage.json").read_text())
    (stage / "stage.json").unlink()
    (stage / "started.json").write_text(json.dumps({"key": record["key"], "seconds": 0, "begun": time.time()}))
    before = (stage / "parametric" / "adapter_model.safetensors").stat().st_mtime_ns
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"adapters.mastery.parametric": [1.0, 1.0]})
    with pytest.raises(MasteryError, match=r"parametric, 1 hop: .* points below the gate of 100%\. Try more epochs"):
        skillcompose.train(recipe, tmp_path / "run", until="adapters")
    assert not (stage / "stage.json").exists()
    skillcompose.train(recipe, tmp_path / "run", until="adapters", allow_unmastered=True)
    assert (stage / "stage.json").exists()
    assert (stage / "parametric" / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_gold_traces_show_every_question_and_rl_asks_them(recipe_file: Path, finished_run: Path) -> None:
    recipe, run = skillcompose.Recipe.from_yaml(recipe_file), Run(finished_run)
    stage, traces = run.stage("composition"), recipe.composition.traces
    asked = {q.id for q in complementary_questions(Work(recipe, stage, run, Progress()))}
    assert read_json(stage / "traced" / "training.json")["rows"] == (1 + traces.replay) * len(asked)
    rolled = {line["question"] for line in lines(stage / "rollouts.jsonl")}
    assert rolled and rolled <= asked


def test_too_few_questions_for_a_step_of_rl_are_found_before_anything_is_trained(
    tmp_path: Path, recipe_file: Path, finished_run: Path
) -> None:
    shutil.copytree(finished_run / "04-questions", tmp_path / "04-questions")
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"composition.grpo.gradient_accumulation_steps": 500})
    run = Run(tmp_path)
    with pytest.raises(TrainingError, match=r"for RL are fewer than the 1000 prompts.*lower composition\.grpo"):
        check_questions(Work(recipe, run.stage("adapters"), run, Progress()))


def test_new_settings_of_one_skill_leave_the_other_adapter_as_it_is(
    tmp_path: Path, recipe_file: Path, finished_run: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    stage = tmp_path / "run" / "05-adapters"
    adapters = [stage / skill / "adapter_model.safetensors" for skill in ("parametric", "contextual")]
    before = [path.stat().st_mtime_ns for path in adapters]
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"adapters.contextual.sft.learning_rate": 1e-3})
    skillcompose.train(recipe, tmp_path / "run", until="adapters", allow_unmastered=True)
    after = [path.stat().st_mtime_ns for path in adapters]
    assert after[0] == before[0] and after[1] != before[1]
    skillcompose.train(recipe, tmp_path / "run", until="adapters", force="adapters", allow_unmastered=True)
    assert adapters[0].stat().st_mtime_ns != before[0]


@pytest.mark.parametrize("skill", [Skill.PARAMETRIC, Skill.CONTEXTUAL])
def test_an_ablated_start_has_seen_nothing_of_the_skill(
    tmp_path: Path, recipe_file: Path, finished_run: Path, skill: Skill
) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file).without(skill)
    assert recipe.name.endswith(f"-without-{skill}")
    shutil.copytree(finished_run, tmp_path / "run")
    run = skillcompose.train(recipe, tmp_path / "run", until="composition", allow_unmastered=True)
    adapter = (run.stage("adapters") / "parametric" / "adapter_model.safetensors").stat().st_mtime_ns
    assert adapter == (finished_run / "05-adapters" / "parametric" / "adapter_model.safetensors").stat().st_mtime_ns
    rows = [
        read_json(folder / "06-composition" / "start" / "training.json")["rows"]
        for folder in (finished_run, run.folder)
    ]
    assert 0 < rows[1] < rows[0]
    merged = load_file(run.stage("composition") / "merged" / "adapter_model.safetensors")
    other = Skill.CONTEXTUAL if skill is Skill.PARAMETRIC else Skill.PARAMETRIC
    alone = load_file(finished_run / "05-adapters" / other / "adapter_model.safetensors")
    for name in {name.rsplit(".lora_", 1)[0] for name in merged}:
        a, b = (merged[f"{name}.lora_{factor}.weight"].float() for factor in "AB")
        rank = len(alone[f"{name}.lora_A.weight"])
        assert torch.linalg.matrix_rank(b @ a) <= rank < torch.linalg.matrix_rank(a), "nothing of it, and room for it"
    assert (run.stage("composition") / "composed").is_dir()
    assert not (run.stage("composition") / "traced").exists()  # gold traces would teach what is left out


def test_rl_goes_on_from_gold_traces_where_the_recipe_has_them(
    tmp_path: Path, recipe_file: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    monkeypatch.setattr(composition, "train_grpo", lambda *given: begun.append(given[-1].name))
    run = Run(shutil.copytree(finished_run, tmp_path / "run"))
    for overrides in ({}, {"composition.traces": None}):
        recipe = skillcompose.Recipe.from_yaml(recipe_file, overrides)
        work = Work(recipe, run.stage("composition"), run, Progress(), allow_unmastered=True)
        composition.run(work)
        assert (work.folder / "traced").is_dir() is (not overrides)
    assert begun == ["traced", "start"]
    adapters = [
        load_file(finished_run / "06-composition" / name / "adapter_model.safetensors") for name in ("start", "traced")
    ]
    assert any(not torch.equal(value, adapters[1][name]) for name, value in adapters[0].items())


def test_adapters_that_are_trained_at_once_are_the_ones_that_are_trained_one_by_one(
    tmp_path: Path, recipe_file: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr("skillcompose.adapters.processes.LARGE", 0)
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("05-adapters"))
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    skillcompose.train(recipe, tmp_path / "run", until="adapters", allow_unmastered=True)
    for skill in ("parametric", "contextual"):
        name = f"05-adapters/{skill}/adapter_model.safetensors"
        ours, alone = (load_file(folder / name) for folder in (tmp_path / "run", finished_run))
        # One of them goes on with two threads when the other has ended, and sums are in another order.
        for key, value in alone.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-5)

    wrong = skillcompose.Recipe.from_yaml(recipe_file, {"adapters.contextual.sft.learning_rate": 0.0})
    with pytest.raises(TrainingError, match="contextual adapter: the adapter did not change"):
        skillcompose.train(wrong, tmp_path / "run", until="adapters", allow_unmastered=True)


def test_the_other_cores_are_waited_for_at_the_step_at_which_the_other_has_as_many_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = SimpleNamespace(dataset={"input_ids": [[0] * 10] * 8})
    arguments = SimpleNamespace(per_device_train_batch_size=1, gradient_accumulation_steps=2)
    done: list[object] = []
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: done.append("waited")))
    monkeypatch.setattr(torch, "set_num_threads", done.append)
    for tokens, steps in ((45, [0, 1, 2, 3]), (81, [0, 1, 2, 3]), (45, [3])):
        cores = AllCores(2, tokens)
        cores.on_train_begin(arguments, None, None, train_dataloader=rows)
        for step in steps:
            done.append(step)
            cores.on_step_begin(arguments, SimpleNamespace(global_step=step), None)
    assert done == [0, 1, 2, 3, "waited", 2, 0, 1, 2, 3, 3, "waited", 2]


def test_every_training_also_runs_with_a_base_in_bf16(
    tmp_path: Path, recipe_file: Path, tiny_model: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLCOMPOSE_DTYPE", "bfloat16")  # read by the processes of the adapters
    monkeypatch.setattr("skillcompose.models.fast_dtype", lambda: torch.bfloat16)
    model = shutil.copytree(tiny_model, tmp_path / "model")
    template = "{% for m in messages %}Question: {{ m['content'] }}\nAnswer:\n{% endfor %}"
    (model / "chat_template.jinja").write_text(template)  # so that there are conversations, and a penalty on drift
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"model": str(model)})
    run = skillcompose.train(recipe, tmp_path / "run", until="composition", allow_unmastered=True)
    assert (run.stage("adapters") / "general.jsonl").read_text()
    for name in ("05-adapters/parametric", "05-adapters/contextual", "06-composition/start", "06-composition/composed"):
        file = f"{name}/adapter_model.safetensors"
        found, wanted = load_file(tmp_path / "run" / file), load_file(finished_run / file)
        assert found.keys() == wanted.keys()
        assert all(value.dtype == torch.float32 and value.isfinite().all() for value in found.values())


def test_a_reward_of_ones_own_is_learnt_from_and_exact_match_still_measured(
    tmp_path: Path, recipe_file: Path, finished_run: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.copy(recipe_file, tmp_path / "recipe.yaml")
    (tmp_path / "mine.py").write_text(
        "def short(completions, *, answers, question, **columns):\n"
        "    assert len(completions) == len(answers) == len(question)\n"
        "    return [-float(len(text)) for text in completions]\n"
    )
    recipe = skillcompose.Recipe.from_yaml(tmp_path / "recipe.yaml", {"composition.reward": "mine:short"})
    skillcompose.train(recipe, tmp_path / "run", until="composition", allow_unmastered=True)
    history = json.loads((tmp_path / "run" / "06-composition" / "training.json").read_text())["history"]
    assert all(entry["reward"] < 0 <= entry["most_frequent_error"] for entry in history)

    odd = {"composition.grpo.lr_scheduler_type": "consine", "adapters.parametric.lora.layers_to_transform": [1]}
    with pytest.raises(RecipeError, match=r"2 problems\n.*adapters.parametric.lora(.|\n)*composition.grpo: .*consine"):
        check_settings(skillcompose.Recipe.from_yaml(tmp_path / "recipe.yaml", odd))
    with pytest.raises(RecipeError, match=r"composition.reward: mine.py has no function 'long'"):
        skillcompose.Recipe.from_yaml(tmp_path / "recipe.yaml", {"composition.reward": "mine:long"})
    with pytest.raises(TrainingError, match="no module 'nowhere' beside the recipe"):
        own_reward(rewarded(recipe, "nowhere:short"))
    (tmp_path / "broken.py").write_text("import nothing_of_the_kind\n\n\ndef short(completions, **columns): ...\n")
    with pytest.raises(TrainingError, match=r"broken.py cannot be run: .*nothing_of_the_kind"):
        check_settings(rewarded(recipe, "broken:short"))

    (tmp_path / "mine.py").write_text("def short(completions, **columns):\n    return [0.0] * len(completions)\n")
    assert next(step.name for step in plan(recipe, tmp_path / "run") if step.runs) == "composition"


def rewarded(recipe: skillcompose.Recipe, reward: str) -> skillcompose.Recipe:
    return recipe.model_copy(update={"composition": recipe.composition.model_copy(update={"reward": reward})})
