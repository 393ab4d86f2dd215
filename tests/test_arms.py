"""The arms of the biographies' benchmark at a tiny size: a session of hours should not end in a typing mistake."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from test_recipes import ROOT, TINY

import skillcompose
from skillcompose.types import Skill, read_json

sys.path.insert(0, str(ROOT / "examples"))
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "benchmarks" / "biographies"))
sys.path.insert(0, str(ROOT / "benchmarks" / "diagnosis"))
import arm
import arms
import biographies_build
import claims
import confidence
import control
import drift
import general
import prerequisite
import run
import tables

CHAT = "{% for turn in messages %}Question: {{ turn.content }}\n{% endfor %}Answer:\n"


def test_every_arm_is_asked_what_default_was(
    tmp_path: Path, tiny_model: Path, embedder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "chat_template.jinja").write_text(CHAT)
    biographies_build.build(tmp_path / "world", known=40, reused=40, new=40, seed=0)
    overrides = TINY | {
        "model": str(model),
        "knowledge_base": str(tmp_path / "world"),
        "index.embedder": str(embedder),
        "index.min_recall": 0.0,
        "max_answer_tokens": 200,
        "composition.grpo.per_device_train_batch_size": 8,
        "composition.replay.rows": 8,
    }
    for skill in ("parametric", "contextual"):
        overrides[f"adapters.{skill}.sft.warmup_steps"] = 0
    recipe = skillcompose.Recipe.from_yaml(arms.RECIPE, overrides)
    file = tmp_path / "biographies.yaml"
    file.write_text(json.dumps(recipe.model_dump(mode="json")))
    probe = [json.dumps({"question": "What is the size of brol?", "answers": [str(size)]}) for size in (1, 2)]
    (tmp_path / "probe.jsonl").write_text("\n".join(probe) + "\n")
    for module in (arms, run):
        monkeypatch.setattr(module, "RECIPE", file)
    monkeypatch.setattr(arm, "PART", 2000)
    monkeypatch.setattr(arm, "MOST", 40_000)
    monkeypatch.setattr(general, "QUESTIONS", tmp_path / "probe.jsonl")
    for module in (arms, run, tables):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    monkeypatch.setattr(claims, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(claims, "rewrite_readme", lambda: None)

    for name in arms.ARMS:
        run.measure(name, 0)

    records = {name: read_json(tmp_path / f"{name}-0.json") for name in arms.ARMS}
    asked = {row[1] for row in records["default"]["predictions"] if row[0] == "composed"}
    for name, record in records.items():
        assert record["failure"] is None or "reward" in record["failure"], record["failure"]
        assert {row[1] for row in record["predictions"] if row[0] in (name, "composed")} == asked
        assert record["tokens"] > 0 and len(record["probe"]) == 2
        if name.endswith(arm.PATIENT):
            parts = record["training"]["parts"]
            best = max(range(len(parts)), key=lambda at, parts=parts: parts[at]["validation"])
            assert len(parts) == best + arm.PATIENCE + 1
            assert (tmp_path / "runs" / f"biographies-0-{name}" / "composed").resolve().name == f"part {best + 1}"
            assert record["tokens"] >= sum(part["tokens"] for part in parts) >= 2000 * len(parts)
    run.write_claims(list(records.values()))
    claimed = read_json(tmp_path / "results.json")
    assert {"biographies.iid", "biographies.start_sft_comp.zero_shot", "biographies.joint.composition"} <= set(claimed)
    tables.main()
    assert "start_sft_comp_patient" in (tmp_path / "RESULTS.md").read_text()

    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "runs" / "biographies-0")])
    for module in (control, confidence):
        monkeypatch.setattr(module, "start_again", lambda: None)
        monkeypatch.setattr(module, "FILE", tmp_path / f"{module.__name__}.json")
        module.main()
    own = read_json(tmp_path / "control.json")["biographies-0"]
    for name in control.CONTROLS:
        assert own["arms"][name]["predictions"] == records[name]["predictions"]
        assert own["arms"][name]["tokens"] > 0 and own["arms"][name]["seconds"] > 0
    sure = read_json(tmp_path / "confidence.json")["biographies-0"]["right"]["complementary"]["above"]
    assert sure["0.0"][1] == sum(
        row[0] == "composed" and row[2] == "complementary" and not row[7] for row in own["predictions"]
    )

    monkeypatch.setattr(drift, "start_again", lambda: None)
    monkeypatch.setattr(drift, "FILE", tmp_path / "drift.json")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "runs" / "biographies-0"), "contextual"])
    drift.main()
    with_and_without = read_json(tmp_path / "drift.json")["biographies-0"]["contextual"].values()
    assert all(row["nats_a_token"] > 0 and row["mastery"][0]["asked"] for row in with_and_without)

    (tmp_path / "zero.py").write_text("def zero(completions, **_):\n    return [0.0] * len(completions)\n")
    monkeypatch.setattr(prerequisite, "RECIPE", file)
    monkeypatch.setattr(prerequisite, "WHOLE", tmp_path / "runs" / "biographies-0")
    for reward, failure in (("exact_match", None), ("zero:zero", "nothing to learn from")):
        steps = 5 if failure else 1
        fewer = {"composition.grpo.max_steps": steps, "composition.reward": reward}
        monkeypatch.setattr(prerequisite, "FEWER", fewer)
        point = prerequisite.measure(Skill.PARAMETRIC, 0.0)
        assert failure in point["failure"] if failure else point["failure"] is None
        assert not failure or point["composed"] == point["start"]
    monkeypatch.setattr(prerequisite, "FEWER", {"composition.grpo.max_steps": 1})
    for skill, share in ((Skill.PARAMETRIC, 0.5), (Skill.CONTEXTUAL, 0.5), (prerequisite.BOTH, 1.0)):
        assert prerequisite.measure(skill, share)["failure"] is None
