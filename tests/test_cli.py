"""The command line as a user types it."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from skillcompose.cli import main

ROOT = Path(__file__).parent.parent


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_importing_and_help_load_no_torch() -> None:
    code = "import sys, skillcompose, skillcompose.cli; assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_checks(recipe: Path) -> None:
    # The paper's world is made when someone needs it.
    world = ["-o", "knowledge_base=../examples/biographies"] if recipe.stem == "biographies-paper" else []
    code, out, err = invoke("check", str(recipe), *world)
    assert (code, err) == (0, ""), err
    assert out.endswith("ok\n")


def test_eight_mistakes_are_named_at_once_in_under_a_second(tmp_path: Path) -> None:
    text = (ROOT / "recipes/quickstart.yaml").read_text()
    for right, wrong in (
        ("model: builtin:smollm2-135m-instruct", "model: builtin:smollm2-135m"),
        ("search: hybrid", "search: hybird"),
        ("  k: 3", "  kk: 3"),
        ("max_steps: ", "max_stepz: "),
        ("lora_alpha: 64", "lora_alfa: 64"),
        ("  contextual_rows: 720", "  contextual_rows: -3"),
        ("column: version", "column: versoin"),
        ("depends > version", "dependz > version"),
        ("../examples/debian", str(ROOT / "examples/debian")),
    ):
        assert right in text, right
        text = text.replace(right, wrong, 1)
    recipe = tmp_path / "broken.yaml"
    recipe.write_text(text)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "skillcompose", "train", str(recipe), "--run", str(tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - begin < 3  # one second on an idle machine
    assert done.returncode == 1
    for expected in (
        "did you mean 'builtin:smollm2-135m-instruct'",
        "did you mean 'hybrid'",
        "did you mean 'max_steps'",
        "did you mean 'lora_alpha'",
        "index.kk",
        "questions.contextual_rows",
        "did you mean 'version'",
        "did you mean 'depends'",
    ):
        assert expected in done.stderr, done.stderr
    assert "8 problems" in done.stderr
    assert not (tmp_path / "run").exists()


def test_wrong_columns_and_paths_are_named_with_the_nearest(tmp_path: Path) -> None:
    text = (ROOT / "recipes/quickstart.yaml").read_text().replace("../examples/debian", str(ROOT / "examples/debian"))
    text = text.replace("column: maintainer", "column: maintaner").replace(
        "described_as > maintainer", "describedas > maintainer"
    )
    (tmp_path / "r.yaml").write_text(text)
    code, _, err = invoke("check", str(tmp_path / "r.yaml"))
    assert code == 1
    assert "did you mean 'maintainer'" in err and "did you mean 'described_as'" in err


def test_user_mistakes_are_one_message_without_a_traceback(tmp_path: Path) -> None:
    for arguments in (["ask", str(tmp_path), "x"], ["eval", str(tmp_path)], ["check", str(tmp_path / "no.yaml")]):
        code, _, err = invoke(*arguments)
        assert code == 1
        assert err.startswith("Error: ") and "Traceback" not in err


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("composition.grpo.learning_rate=1e-4", "'1e-4' is text to YAML, a number is 1.0e-4"),
        ("composition.grpo.learning_rate='0.0001'", "is the text '0.0001', not a number"),
        ("composition.grpo.entropy_coef=0.1", "has no effect here"),
        ("adapters.parametric.sft.gradient_checkpointing=true", "`activation_checkpointing` now"),
        ("composition.traces={sft: {push_to_hub: true}}", "stays on this machine"),
        ("name=2026-02-30", "no YAML"),
        ("adapters.parametric.sft.num_train_epochs=0.5", "not a whole number"),
        ("adapters.parametric.lora.use_dora=true", "cannot be summed exactly"),
        ("composition.grpo.num_generations=6", "whole groups"),
        ("composition.grpo.generation_batch_size=8", "is 8; it must be a multiple of the 16 rows"),
        ("composition.grpo.top_p=0.9", "whole distribution"),
        ("composition.grpo.loss_type=drgrpo", "is 'drgrpo'; did you mean 'dr_grpo'?"),
        ("composition.grpo.scale_rewards=gruop", "did you mean 'group'?"),
        ("composition.grpo.sync_ref_model=true", "has no effect here"),
        ("adapters.contextual.lora.target_modules=[q_proj, lm_head]", "names lm_head, which can share weights"),
        ("adapters.contextual.lora.target_modules='.*(q_proj|embed_tokens)'", "names embed_tokens, which can share"),
        ("composition.reward=nobody.rewards:score", "no module 'nobody.rewards' is installed"),
        ("composition.reward=broken:score", "broken.py is no Python"),
        ("composition.reward=mine:scor", "did you mean 'score'"),
        ("adapters.mastery.parametric=[80]", "parametric.0: input should be less than or equal to 1, got 80"),
        ("model=models/my/llama", "no model folder 'models/my/llama'"),
        ("name=[", "no YAML"),
        ("name", "write KEY=VALUE"),
        ("2024=x", "2024: is not a setting"),
        ("composition.traces={sft: {}, replays: 1}", "did you mean 'replay'?"),
        ("xyz=x", "model, name, passages, questions, ..."),
    ],
)
def test_what_would_fail_hours_later_is_said_at_once(pair: str, message: str, tmp_path: Path) -> None:
    text = (ROOT / "recipes/quickstart.yaml").read_text().replace("../examples/debian", str(ROOT / "examples/debian"))
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "broken.py").write_text("def score(:\n")
    (tmp_path / "mine.py").write_text("from functools import partial\nscore = partial(max)\n")
    code, _, err = invoke("check", str(tmp_path / "r.yaml"), "-o", pair)
    assert code == 1 and message in err and "1 problem" in err
    assert invoke("check", str(tmp_path / "r.yaml"), "-o", "composition.reward=mine:score")[0] == 0


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("# Größe\n".encode("latin-1"), "is not UTF-8"),
        (b"on: 1\n2024: x\nname: n\n", "2024: keys should be strings"),
        (b"facts:\n  relations:\n    a: {}\n    b: {}\n    a: {}\n", "'a' stands twice"),
        (b"name: n\nknowledge_base: {{ folder }}\n", "unhashable key"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_one_message(written: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(written)
    code, _, err = invoke("check", str(tmp_path / "r.yaml"))
    assert code == 1 and message in err


@pytest.mark.parametrize(("option", "said"), [(["--attribution"], "closed book"), (["--pass-at-k", "4"], "at k = 4")])
def test_a_diagnosis_is_printed_and_reported(option: list[str], said: str, finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    code, out, err = invoke("eval", str(run), *option, "--questions", "2")
    assert code == 0 and said in out and "diagnosis.html" in err
    assert invoke("eval", str(run), "--retrieval", *option)[0] == 2


def test_an_address_that_is_taken_is_said_before_a_model_is_loaded(finished_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = invoke("serve", str(finished_run), "--port", str(taken.getsockname()[1]))
    assert code == 1 and "name another --port" in err
    assert invoke("serve", str(finished_run), "--port", "99999")[0] == 2


def test_ask_eval_and_report_print_what_a_program_can_read(finished_run: Path) -> None:
    code, out, _ = invoke("ask", str(finished_run), "What is the size of brol?", "--json")
    assert code == 0
    assert {"text", "hops", "passages", "prompt", "completion"} <= set(json.loads(out))
    code, out, _ = invoke("ask", str(finished_run), "What is the size of brol?", "--show-passages")
    assert code == 0 and "[1]" in out
    code, out, _ = invoke("eval", str(finished_run), "--json")
    assert "composed" in json.loads(out)
    code, out, _ = invoke("eval", str(finished_run))
    assert "composed (GRPO)" in out and "report.html" in out
    code, out, _ = invoke("report", str(finished_run))
    assert Path(out.strip()).is_file()


def test_init_writes_a_project_that_checks_and_plans(tmp_path: Path) -> None:
    code, out, _ = invoke("init", str(tmp_path / "mine"))
    assert code == 0
    recipe = out.strip()
    assert invoke("check", recipe)[0] == 0
    code, out, _ = invoke("plan", recipe, "--run", str(tmp_path / "run"))
    assert code == 0 and out.count("run ") >= 7
    code, _, err = invoke("init", str(tmp_path / "mine"))
    assert code == 1 and "not empty" in err
    code, _, err = invoke("init", str(tmp_path / "mine" / "recipes" / "own-folder.yaml" / "inside"))
    assert code == 1 and "cannot be written (Not a directory); name another folder" in err


def test_doctor_says_what_the_machine_can_do() -> None:
    code, out, err = invoke("doctor")
    assert (code, err) == (0, "")
    found = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert found["threads"].startswith("torch 1, FAISS 1")
    assert found["products"].count("GFLOP/s") == 2


def test_a_container_s_quota_sets_every_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss
    import torch

    from skillcompose import machine

    monkeypatch.delenv("OMP_NUM_THREADS")
    for quota in (2, 1):
        monkeypatch.setattr(machine, "cores", lambda quota=quota: quota)
        machine.use_cores()
        assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (quota, quota)
