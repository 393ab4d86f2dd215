"""The policy in an application, and what is exported of it."""

import asyncio
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest
from click.testing import CliRunner

import skillcompose
from skillcompose import gguf_file
from skillcompose.citations import cite
from skillcompose.cli import main
from skillcompose.errors import ModelError, PromptError, RunError
from skillcompose.index.steps import by_title
from skillcompose.prompts import prompt
from skillcompose.serving.card import card
from skillcompose.serving.export import UNFINISHED, _aside, export
from skillcompose.stages import STAGES, stage_key
from skillcompose.types import ScoredPassage, write_json

ROOT = Path(__file__).parent.parent
QUESTION = "Who is the owner of what brol needs?"
NEIGHBOURS = "The neighbour of Anna Dorn is Yngve Storm. The dentist of Anna Dorn is Ulf Hald."
USES = "The product that Birch Clinics uses is Beacon."


def test_passages_come_from_the_run_the_app_or_nowhere(policy: skillcompose.Policy) -> None:
    assert len(policy.answer(QUESTION).passages) == policy.k
    own = policy.answer(QUESTION, ["brol needs fenk.", skillcompose.Passage("x", "Fenk", "It is old.", "x.md", "")])
    assert [hit.passage.text for hit in own.passages] == ["brol needs fenk.", "It is old."]
    assert "[1] Passage 1: brol needs fenk.\n[2] Fenk: It is old." in own.prompt
    assert policy.answer(QUESTION, []).prompt == f"Question: {QUESTION}\nAnswer:\n"


def test_passages_are_texts_passages_or_what_a_search_found_in_a_list(policy: skillcompose.Policy) -> None:
    hits = policy.search([QUESTION + " \ud83d"], 2)[0]
    assert policy.answer(QUESTION, hits).passages == tuple(hits)
    assert policy.answer(QUESTION, ["half of an emoji: \ud83d"]).completion is not None
    with pytest.raises(PromptError, match="are a list"):
        policy.answer(QUESTION, "brol is red")
    with pytest.raises(PromptError, match="questions are a list"):
        policy.answer_batch(QUESTION)
    with pytest.raises(PromptError, match="2 questions, and passages for 1"):
        policy.answer_batch([QUESTION, QUESTION], [["brol is red"]])
    with pytest.raises(PromptError, match="there is no question"):
        policy.answer(" ")
    assert policy.answer_batch([]) == list(policy.stream_batch([])) == []


@pytest.mark.parametrize(
    ("texts", "hop", "found"),
    [
        ({"Anna Dorn": NEIGHBOURS}, "The neighbour of Anna Dorn is Yngve Storm.", 1),
        ({"Anna Dorn": NEIGHBOURS}, "The boss of Yngve Storm is Ulf Hald.", None),
        ({"Anna Dorn": NEIGHBOURS}, "The boss of Yngve Storm is Mia Hald.", None),
        ({"x": "Old.", "Customers": "Our customers: Birch Clinics uses Beacon."}, USES, 2),
        ({"Birch Clinics Ltd.": "Birch Clinics Ltd. uses Beacon."}, USES, 1),
        ({"Customers": "Birch Clinics uses Beacon.", "Beacon": "Beacon is a scheduler."}, USES, 1),
        ({"Birch Clinics": "Uses: Beacon"}, USES, 1),
        ({"x": "Old.", "abook": "abook is the featureful word processor."}, "The package is abook.", 2),
        ({"Ulf Hald": "The pet of Ulf Hald is a dog."}, "The boss of Yngve Storm is Ulf Hald.", None),
    ],
)
def test_a_hop_is_cited_where_it_is_stated_and_not_where_its_words_stand(
    texts: dict[str, str], hop: str, found: int | None
) -> None:
    read = [ScoredPassage(skillcompose.Passage(name, name, text, "x.md", ""), 1.0) for name, text in texts.items()]
    assert [one.passage for one in cite(f"{hop}\nSo: x", read)] == [found]


def test_a_title_that_every_sentence_names_is_no_entity() -> None:
    titles = ("the", "IT", "abiword")
    found = by_title(skillcompose.Passage(title, title, "", "x.md", "") for title in titles)
    assert list(found) == ["abiword"]


def test_streams_threads_and_coroutines_say_what_a_single_call_says(policy: skillcompose.Policy) -> None:
    expected = policy.answer(QUESTION)
    assert "".join(policy.stream(QUESTION)).strip() == expected.completion
    assert asyncio.run(policy.answer_async(QUESTION)) == expected
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(policy.answer, [QUESTION] * 8)) == [expected] * 8


def test_who_joins_later_gets_the_answer_of_a_single_call(policy: skillcompose.Policy) -> None:
    asked = [QUESTION, "Who?", f"{QUESTION} {QUESTION}", "What is the size of brol?", "Which is the red clock program?"]
    alone = [policy.answer(question) for question in asked]
    live = policy.live()
    growing = live.join(asked[:1])
    for question in asked[1:]:
        live.step()
        growing += live.join([question])
    unwanted = live.join([QUESTION] * 2)
    live.step()
    live.leave(unwanted[0])
    while not all(one.done for one in growing):
        live.step()
    assert [one.answer for one in growing] == alone
    assert [one.answer.confidence for one in growing] == pytest.approx([answer.confidence for answer in alone])
    assert not unwanted[0].done and unwanted[0] not in live.growing


def test_a_long_prompt_waits_until_there_is_room(policy: skillcompose.Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skillcompose.live.BATCH_TOKENS", 600)
    live = policy.live()
    short, long = live.join([QUESTION], [[]]) + live.join([QUESTION], [["brol needs fenk. " * 60]])
    live.step()
    assert short.ids and not long.ids
    while not long.done:
        live.step()
    assert short.done and long.answer == policy.answer(QUESTION, ["brol needs fenk. " * 60])


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_an_exported_folder_answers_alone(
    form: str, finished_run: Path, policy: skillcompose.Policy, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    mounted = (tmp_path / "out").stat().st_ino
    found = export(skillcompose.Run.open(finished_run), tmp_path / "out", form)
    assert (tmp_path / "out").stat().st_ino == mounted
    assert found["same"] == found["asked"] > 0
    assert found["drift"] < 1e-4
    loaded = skillcompose.Policy.from_pretrained(tmp_path / "out")
    assert loaded.answer(QUESTION) == policy.answer(QUESTION)
    alone = skillcompose.Policy.from_pretrained(tmp_path / "out", retriever=SimpleNamespace(search=None))
    assert "BROL" in alone.names and alone.names.entities < loaded.names.entities == policy.names.entities
    card = (tmp_path / "out" / "README.md").read_text()
    assert "composed (GRPO)" in card
    mode = (tmp_path / "out" / "README.md").stat().st_mode
    assert all(path.stat().st_mode == mode for path in (tmp_path / "out").glob("*.safetensors"))
    config = tmp_path / "out" / "config.json"
    assert not config.is_file() or json.loads(config.read_text())["rope_theta"] == 10000.0
    names = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert names["tokenizer_class"] == "PreTrainedTokenizerFast" and "token_type_ids" not in names["model_input_names"]
    assert str(finished_run) not in "".join(p.read_text() for p in (tmp_path / "out").rglob("*.json"))
    with pytest.raises(RunError, match="not empty"):
        export(skillcompose.Run.open(finished_run), tmp_path / "out")
    with pytest.raises(RunError, match="cannot be written"):
        export(skillcompose.Run.open(finished_run), tmp_path / "out" / "README.md" / "below")
    with pytest.raises(RunError, match="skillcompose export"):
        skillcompose.Policy.from_pretrained(tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_an_export_that_fails_leaves_the_folder_as_it_was(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    if there:
        (folder / UNFINISHED).mkdir(parents=True)
        (folder / UNFINISHED / "half").touch()  # of a process that was killed

    def written(stop: Callable[[Path], object] = lambda folder: None) -> list[str]:
        with _aside(folder) as aside:
            assert not (aside / "half").exists()
            for name in ("index", "policy.json", "weights"):
                (aside / name).write_text(name)
            stop(folder)
        return sorted(path.name for path in folder.iterdir())

    def interrupted(path: Path, to: Path) -> None:
        assert to.name != "policy.json"
        os.rename(path, to)
        if to.name == "weights":
            raise KeyboardInterrupt

    with pytest.raises(ZeroDivisionError):
        written(lambda folder: 1 / 0)
    assert folder.exists() == there and not list(tmp_path.rglob("*.json"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", interrupted)
        written()
    assert folder.exists() == there and not list(tmp_path.rglob("weights"))
    with pytest.raises(RunError, match="another process is writing"):
        written(lambda folder: written())
    with pytest.raises(RunError, match="not empty"):
        written(lambda folder: (folder / "mine").touch())
    assert [path.name for path in folder.iterdir()] == ["mine"]
    (folder / "mine").unlink()
    assert written() == ["index", "policy.json", "weights"]


def test_a_model_card_has_no_numbers_of_the_policy_before(tmp_path: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(ROOT / "recipes" / "quickstart.yaml")
    run = skillcompose.Run(tmp_path)
    cell = {"correct": 1, "asked": 1, "share": 1.0, "interval": [1.0, 1.0]}
    for stage in STAGES:
        run.stage(stage.name).mkdir()
        record = {"key": stage_key(stage, recipe, run), "outputs": {"policy": "first"}}
        write_json(run.stage(stage.name) / "stage.json", record)
    write_json(run.stage("evaluation") / "metrics.json", {"composed": {"unseen": {"iid": cell, "macro": 1.0}}})
    assert "| composed (GRPO) | 100 [100, 100] |" in card(run, recipe, "gguf")
    write_json(run.stage("composition") / "stage.json", {"key": "", "outputs": {"policy": "second"}})
    assert "Not evaluated." in card(run, recipe, "gguf") and "composed (GRPO)" not in card(run, recipe, "gguf")


def test_an_adapter_is_not_put_on_another_base(finished_run: Path, tmp_path: Path) -> None:
    export(skillcompose.Run.open(finished_run), tmp_path / "out", "adapter")
    assert "--max-lora-rank 8 " in (tmp_path / "out" / "README.md").read_text()
    settings = tmp_path / "out" / "policy.json"
    settings.write_text(settings.read_text().replace('"fingerprint": "', '"fingerprint": "x'))
    with pytest.raises(ModelError, match="not the base"):
        skillcompose.Policy.from_pretrained(tmp_path / "out")


def test_a_gguf_file_says_what_the_policy_says(
    finished_run: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = skillcompose.Run.open(finished_run), tmp_path / "out"
    with pytest.raises(ModelError, match="convert_hf_to_gguf"):
        export(run, out, "gguf")
    assert not out.exists()
    config = json.loads((tiny_model / "config.json").read_text())
    writer = gguf.GGUFWriter(tmp_path / "header.gguf", "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    monkeypatch.setattr(gguf_file, "HEADER", str(tmp_path / "header.gguf"))
    found = export(run, out, "gguf")
    assert found["drift"] < 2e-3
    assert found["same"] >= found["asked"] - 1
    assert prompt("{{ .Prompt }}") in (out / "Modelfile").read_text()


def test_export_and_ask_from_the_command_line(finished_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(finished_run), str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    assert "same answer on" in result.stderr
    result = CliRunner().invoke(main, ["ask", str(tmp_path / "out"), QUESTION, "--json"])
    assert json.loads(result.stdout)["passages"]
