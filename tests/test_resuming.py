"""Runs that are killed, begun again, locked, or asked for twice: nothing is lost, and nothing comes out otherwise."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import skillcompose
from skillcompose import pipeline
from skillcompose.composition.guards import Collapse
from skillcompose.composition.shared_prefix import EpochSampler, SharedPrefixGRPOTrainer
from skillcompose.errors import MasteryError, RunError
from skillcompose.progress import Progress
from skillcompose.run import Run
from skillcompose.stages import Stage, Work
from skillcompose.training import complementary_questions
from skillcompose.types import read_json

TRAIN = [sys.executable, "-m", "skillcompose", "train", "--allow-unmastered"]


def test_the_time_of_killed_processes_counts_up_to_their_last_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    folder = run.start("facts", "key")
    begun = read_json(folder / "started.json")["begun"]
    (folder / "facts.jsonl").touch()
    os.utime(folder / "facts.jsonl", (begun + 100, begun + 100))
    run.start("facts", "key")
    assert run.finish("facts", "key") == pytest.approx(100, abs=5)
    run.start("facts", "another")
    assert run.finish("facts", "another") == pytest.approx(0, abs=5)


def test_killed_runs_end_with_the_same_predictions(tmp_path: Path, recipe_file: Path, finished_run: Path) -> None:
    """SIGKILL inside GRPO, after the first checkpoint: the next `train` goes on and the predictions are the same."""
    folder = tmp_path / "run"
    command = [*TRAIN, str(recipe_file), "--run", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    mark = folder / "06-composition" / "work" / "grpo" / "checkpoint-1" / "complete"
    deadline = time.monotonic() + 240
    while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read() if process.stderr else ""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "06-composition" / "stage.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "[5/7] adapters: skipped" in done.stderr
    name = "07-evaluation/predictions.jsonl"
    assert (folder / name).read_text() == (finished_run / name).read_text()


def test_a_locked_run_is_refused(tmp_path: Path, recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    with Run(tmp_path).lock(), pytest.raises(RunError, match="another process is writing"):
        skillcompose.train(recipe, tmp_path)


def test_rl_that_goes_on_in_its_second_pass_asks_what_an_unbroken_run_asks(
    tmp_path: Path, recipe_file: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(skillcompose.Recipe.from_yaml(recipe_file), tmp_path, Run(finished_run), Progress())
    one_pass = len(complementary_questions(work)) // 2
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"composition.grpo.max_steps": one_pass + 3})

    def asked(folder: Path) -> list[tuple[int, str]]:
        rows = (folder / "06-composition" / "rollouts.jsonl").read_text().splitlines()
        return [(row["step"], row["question"]) for row in map(json.loads, rows)]

    def train(name: str) -> list[tuple[int, str]]:
        folder = tmp_path / name
        if not folder.is_dir():
            shutil.copytree(finished_run, folder)
        skillcompose.train(recipe, folder, until="composition", allow_unmastered=True)
        return asked(folder)

    monkeypatch.setattr(Collapse, "SHARE", 2.0)  # the tiny policy has nothing to say
    monkeypatch.setattr("skillcompose.composition.grpo.CONSTANT_STEPS", 100)  # nor is it ever right
    unbroken = train("unbroken")
    first = {question for step, question in unbroken if step < one_pass}
    assert len(first) == 2 * one_pass and len(unbroken) == 2 * (one_pass + 3)

    def stop(guard: Collapse, arguments: object, state: object, control: object, **more: object) -> None:
        if state.global_step == one_pass + 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Collapse, "on_step_end", stop)
        train("broken")
    assert train("broken") == unbroken
    histories = [
        read_json(tmp_path / n / "06-composition" / "training.json")["history"] for n in ("broken", "unbroken")
    ]
    assert histories[0] == histories[1]


def test_rl_that_goes_on_between_two_samplings_samples_again_when_an_unbroken_run_does(
    tmp_path: Path, recipe_file: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    settings = {"composition.grpo.max_steps": 6, "composition.grpo.num_iterations": 2}
    recipe = skillcompose.Recipe.from_yaml(recipe_file, settings)
    monkeypatch.setattr(Collapse, "SHARE", 2.0)
    monkeypatch.setattr("skillcompose.composition.grpo.CONSTANT_STEPS", 100)

    def stop(guard: Collapse, arguments: object, state: object, control: object, **more: object) -> None:
        if state.global_step == 4:
            raise KeyboardInterrupt  # the last checkpoint is of step 3, between the samplings of steps 2 and 4

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Collapse, "on_step_end", stop)
        skillcompose.train(recipe, tmp_path / "run", until="composition", allow_unmastered=True)
    skillcompose.train(recipe, tmp_path / "run", until="composition", allow_unmastered=True)
    rows = (tmp_path / "run" / "06-composition" / "rollouts.jsonl").read_text().splitlines()
    assert sorted({json.loads(row)["step"] for row in rows}) == [0, 2, 3, 4]


def test_a_gate_asks_again_when_it_shall_ask_more(tmp_path: Path, recipe_file: Path, finished_run: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "06-composition" / "stage.json").unlink()
    for count in (4, 3):
        recipe = skillcompose.Recipe.from_yaml(recipe_file, {"composition.mastery.questions": count})
        with pytest.raises(MasteryError):
            skillcompose.train(recipe, tmp_path / "run")
        found = read_json(tmp_path / "run" / "06-composition" / "mastery.json")
        assert {row["of"] for rows in found.values() for row in rows} == {count}


def test_what_was_forced_is_not_forced_again_by_the_same_command(
    tmp_path: Path, recipe_file: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "07-evaluation" / "stage.json").unlink()
    recipe, ran, run_stage = skillcompose.Recipe.from_yaml(recipe_file), list[str](), pipeline._run_stage

    def watched(stage: Stage, *arguments: object) -> None:
        ran.append(stage.name)
        if stage.name != "evaluation":
            run_stage(stage, *arguments)
        elif len(ran) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_run_stage", watched)
    with pytest.raises(KeyboardInterrupt):
        skillcompose.train(recipe, tmp_path / "run", force="index")
    for _ in range(2):  # goes on; then it is another command
        skillcompose.train(recipe, tmp_path / "run", force="index")
    assert ran == ["index", "evaluation", "evaluation", "index", "evaluation"]


def test_where_a_reward_has_no_opinion_a_completion_is_left_out(
    tmp_path: Path, recipe_file: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(recipe_file, tmp_path / "recipe.yaml")
    (tmp_path / "mine.py").write_text(
        "calls = []\n\n\ndef odd(completions, **columns):\n    calls.append(1)\n"
        "    return [None if i % 2 or len(calls) == 2 else -float(i) for i in range(len(completions))]\n"
    )
    recipe = skillcompose.Recipe.from_yaml(tmp_path / "recipe.yaml", {"composition.reward": "mine:odd"})
    seen, score = [], SharedPrefixGRPOTrainer._generate_and_score_completions

    def kept(trainer: SharedPrefixGRPOTrainer, rows: object) -> dict[str, object]:
        seen.append(score(trainer, rows))
        return seen[-1]

    monkeypatch.setattr(SharedPrefixGRPOTrainer, "_generate_and_score_completions", kept)
    shutil.copytree(finished_run, tmp_path / "run")
    skillcompose.train(recipe, tmp_path / "run", until="composition", allow_unmastered=True)
    for number, batch in enumerate(seen, 1):
        assert not batch["advantages"][1::2].any() and batch["advantages"][::2].all() == (number != 2)


def test_every_pass_has_an_order_of_its_own_whatever_came_before() -> None:
    def order(*passes: int) -> list[int]:
        sampler = EpochSampler(range(20), mini_repeat_count=1, batch_size=2, shuffle=True, seed=3)
        for number in passes:
            sampler.set_epoch(number)
            found = list(sampler)
        return found

    assert order(0, 1) == order(1) != order(0)


def test_what_is_new_in_the_index_is_read_without_training(
    tmp_path: Path, recipe_file: Path, finished_run: Path, knowledge_base: Path
) -> None:
    shutil.copytree(knowledge_base, tmp_path / "knowledge")
    shutil.copytree(finished_run, tmp_path / "run")
    recipe = skillcompose.Recipe.from_yaml(recipe_file, {"knowledge_base": str(tmp_path / "knowledge")})
    (tmp_path / "knowledge" / "news.md").write_text("# News\n\nThe green lamp flickers.\n")
    run = skillcompose.train(recipe, tmp_path / "run", until="index")
    hits = skillcompose.Policy.from_run(run.folder).answer("Which green lamp flickers?").passages
    assert "The green lamp flickers." in [hit.passage.text for hit in hits]


def test_two_recipes_of_one_name_do_not_write_over_each_other(
    tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (tmp_path / name for name in ("first.yaml", "second.yaml"))
    for path in (first, second):
        shutil.copy(recipe_file, path)
    skillcompose.train(skillcompose.Recipe.from_yaml(first), until="passages")
    with pytest.raises(RunError, match=r"first\.yaml; change the name"):
        skillcompose.train(skillcompose.Recipe.from_yaml(second), until="passages")
    skillcompose.train(skillcompose.Recipe.from_yaml(second), "runs/tiny", until="passages")
    second.unlink()  # who moves a recipe goes on with its run
    skillcompose.train(skillcompose.Recipe.from_yaml(first), until="passages")


def test_a_folder_that_cannot_be_locked_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"), Run(tmp_path / "file").lock():
        pass

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RunError, match="locks no files"), Run(tmp_path / "run").lock():
        pass
