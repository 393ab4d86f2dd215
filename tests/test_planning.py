"""The plan: what it says of places, of capacity, of costs, and that its parts add up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from trl import GRPOConfig

import skillcompose
from skillcompose import generation
from skillcompose.adapters import general
from skillcompose.composition import mixture
from skillcompose.facts import extract
from skillcompose.libraries import GRPO
from skillcompose.planning import PLAN, explain, predict, spent
from skillcompose.planning.amounts import COMPLEMENTARY, HELD, TESTED, TRAINED, amounts, counter
from skillcompose.planning.costs import (
    BATCH_TOKENS,
    BESIDE,
    BLOCK,
    CONVERSATIONS,
    TOGETHER,
    TURNS,
    answering,
    lora_numbers,
    seconds,
)
from skillcompose.planning.placement import MEASURED, capacity, places
from skillcompose.planning.rates import Rates, rates_of
from skillcompose.planning.schedule import rollouts
from skillcompose.questions import complementary, contextual, walks
from skillcompose.run import STAGE_NAMES, Run
from skillcompose.training import machine_settings

ROOT = Path(__file__).parent.parent
KINDS = ("parametric", "contextual", "merged")
RATES = Rates(
    imports=8.0,
    load=1.0,
    train=dict.fromkeys([*KINDS, "alone"], 2.5e-3),
    prefill=5e-4,
    step=0.02,
    row=1e-3,
    merge=0.2,
    embed=1e-4,
    resident=2**30,
    bytes=dict.fromkeys(KINDS, 10**6),
    at_once=False,
)


def recipe_of(name: str, **overrides: object) -> skillcompose.Recipe:
    return skillcompose.Recipe.from_yaml(ROOT / "recipes" / f"{name}.yaml", overrides)


def remarks(recipe: skillcompose.Recipe) -> dict[str, str]:
    return {place.relation: place.remark for place in places(extract(recipe).facts, recipe)}


def test_what_a_plan_counts_with_is_what_the_stages_use() -> None:
    assert BATCH_TOKENS == generation.BATCH_TOKENS
    assert general.EACH * len(general.STARTS) == CONVERSATIONS
    assert TURNS == (general.ASKED_TOKENS, general.ANSWER_TOKENS)
    assert (BLOCK, BESIDE) == (mixture.BLOCK, mixture.GENERAL)
    assert TOGETHER == contextual.ROWS_PER_PASSAGES
    assert tuple(walks.SHARES.values()) == (TRAINED, HELD, TESTED)
    assert COMPLEMENTARY == complementary.TRAIN_WORDINGS


def test_remarks_name_what_the_data_argue_against_the_place() -> None:
    found = remarks(recipe_of("debian"))
    assert "changes often?" in found["version"]
    assert "only weights facts lead to it" in found["at_host"]
    assert "as many values as facts" in found["at_host"]
    assert found["maintainer"] == found["depends"] == found["described_as"] == ""


def test_a_relation_that_nothing_leads_to_and_an_index_that_could_be_known_are_remarked(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "people.csv").write_text(
        "name,team,E-Mail,homePhone,Contact E-Mail\n"
        + "".join(f"P{i},T{i % 2},p{i}@x.org,{i},q{i}@x.org\n" for i in range(20))
    )
    (tmp_path / "teams.csv").write_text("team,floor\nT0,first\nT1,second\n")
    tasks = "".join(f"K{i},P{i % 20},P{i % 20}\n" for i in range(40))
    (tmp_path / "tasks.csv").write_text(f"task,owner,worker\n{tasks}")
    data = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())
    data["knowledge_base"] = str(tmp_path)
    data["facts"] = {
        "tables": {"people.csv": {"key": "name"}, "teams.csv": {"key": "team"}, "tasks.csv": {"key": "task"}},
        "relations": {
            "team": {"table": "people.csv", "column": "team", "place": "index"},
            "email": {"table": "people.csv", "column": "E-Mail", "place": "index"},
            "contact": {"table": "people.csv", "column": "Contact E-Mail", "place": "weights"},
            "call": {"table": "people.csv", "column": "homePhone", "place": "weights"},
            "owner": {"table": "tasks.csv", "column": "owner", "place": "index"},
            "floor": {"table": "teams.csv", "column": "floor", "place": "weights"},
            "worker": {"table": "tasks.csv", "column": "worker", "place": "weights"},
        },
    }
    data["questions"] = {"train": ["team > floor"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    recipe = skillcompose.Recipe.from_yaml(tmp_path / "recipe.yaml")
    found = remarks(recipe)
    assert "the weights could know it" in found["team"]
    assert all("private?" in found[name] for name in ("email", "contact", "call"))
    assert "sensitive: true" in found["email"]
    assert "nothing leads to it" in found["worker"]
    assert found["floor"] == ""
    joined = {place.relation: place.joined for place in places(extract(recipe).facts, recipe)}
    assert joined == {"team": 40, "email": 40, "owner": 0, "floor": 20, "worker": 0, "contact": 40, "call": 40}


def test_capacity_is_what_was_measured_and_says_where_nothing_was() -> None:
    def lines(**overrides: object) -> str:
        recipe = recipe_of("quickstart", **overrides)
        facts = extract(recipe).facts
        found = amounts(recipe, Run("nowhere"), facts, counter(None), counted=False)
        return "\n".join(capacity(recipe, facts, found, 30))

    assert all(measured.recall >= 0.9 for measured in MEASURED)
    assert "rank 64 in 50% of the layers" in lines()
    assert "Measured on SmolLM2-135M" in lines()
    assert "No adapter of rank 4 or less was measured" in lines(**{"adapters.parametric.lora.r": 4})
    assert "fewer tokens a fact" in lines(**{"adapters.parametric.sft.num_train_epochs": 1, "questions.wordings": 1})


def test_estimated_rows_are_near_the_counted_ones(finished_run: Path, recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    facts, count = extract(recipe).facts, counter(Path(recipe.model))
    real = amounts(recipe, Run(finished_run), facts, count, counted=True)
    guess = amounts(recipe, Run("nowhere"), facts, count, counted=False)
    assert real.rows["contextual"] == guess.rows["contextual"] == 24
    for skill in ("parametric", "contextual"):
        assert guess.tokens[skill] == pytest.approx(real.tokens[skill], rel=0.3)
        assert guess.answer[skill] == pytest.approx(real.answer[skill], rel=0.4)
    lines = (finished_run / "04-questions" / "parametric.train.jsonl").read_text().splitlines()
    assert real.rows["parametric"] == sum(not json.loads(line)["id"].startswith("named:") for line in lines)


def test_more_work_costs_more_and_each_part_counts() -> None:
    recipe = recipe_of("debian")
    facts = extract(recipe).facts

    def predicted(rates: Rates = RATES, **overrides: object) -> dict[str, float]:
        changed = recipe_of("debian", **overrides)
        return seconds(changed, amounts(changed, Run("nowhere"), facts, counter(None), False), rates)

    base = predicted()
    assert list(base) == list(STAGE_NAMES)
    assert predicted(**{"composition.grpo.max_steps": 100})["composition"] > 1.4 * base["composition"]
    assert predicted(**{"composition.traces": {"replay": 4, "sft": {}}})["composition"] > 1.1 * base["composition"]
    assert predicted(**{"adapters.parametric.sft.num_train_epochs": 4})["adapters"] > 1.3 * base["adapters"]
    assert predicted(**{"adapters.parametric.sft.max_steps": 10})["adapters"] < 0.7 * base["adapters"]
    assert predicted(**{"composition.traces.sft.max_steps": 1})["composition"] < base["composition"]
    assert predicted(**{"composition.grpo.num_iterations": 2})["composition"] < base["composition"]
    assert predicted(**{"evaluation.questions": 20})["evaluation"] < base["evaluation"]
    assert predicted(**{"adapters.general": 0})["adapters"] < base["adapters"]
    beside = predicted(replace(RATES, at_once=True))["adapters"]
    assert beside < base["adapters"]
    faster = replace(RATES, at_once=True, train=RATES.train | {"alone": 1.5e-3})
    assert predicted(faster)["adapters"] < beside
    for name in ("prefill", "step", "row", "embed"):
        slower = predicted(replace(RATES, **{name: 2 * getattr(RATES, name)}))
        assert sum(slower.values()) > sum(base.values())
    assert answering(RATES, 10, 100, 20, 30) == pytest.approx(10 * 100 * 5e-4 + 30 * 0.02 + 1.15 * 10 * 20 * 1e-3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (8, 8, 50, 8, 1)),
        ({"num_iterations": 4}, (8, 8, 50, 8, 4)),
        ({"steps_per_generation": 16}, (32, 8, 50, 8, 4)),
        ({"generation_batch_size": 256}, (32, 8, 50, 8, 4)),
    ],
)
def test_what_is_sampled_at_once_is_what_trl_samples(settings: dict[str, int], expected: tuple[int, ...]) -> None:
    plain = {"max_steps": 50, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4, "num_generations": 8}
    recipe = recipe_of("quickstart", **{f"composition.grpo.{k}": v for k, v in (plain | settings).items()})
    found = rollouts(recipe)
    assert found == expected
    grpo = GRPOConfig(**machine_settings(Path("nowhere"), 0) | GRPO | recipe.composition.grpo)
    assert found.prompts * found.samples == grpo.generation_batch_size
    assert found.uses * grpo.gradient_accumulation_steps == grpo.steps_per_generation * grpo.num_iterations


def test_an_adapters_size_is_peft_s(tiny_model: Path) -> None:
    from skillcompose.models import load_base, new_adapter

    for lora in (
        {"r": 4, "target_modules": "all-linear"},
        {"r": 8, "target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    ):
        model = new_adapter(load_base(str(tiny_model)), lora, 0)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert lora_numbers(tiny_model, lora) == trainable


def test_a_measurement_is_kept_and_gives_every_stage_seconds_and_memory(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLCOMPOSE_CACHE", str(tmp_path / "cache"))
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    assert rates_of(recipe) == (None, "measuring is switched off (SKILLCOMPOSE_MEASURE=0)")
    monkeypatch.delenv("SKILLCOMPOSE_MEASURE")
    found = predict(recipe, Run(tmp_path / "run"), counted=False)
    assert found.unknown == ""
    assert all(cost.seconds and cost.memory and cost.disk for cost in found.costs.values())
    monkeypatch.setenv("SKILLCOMPOSE_MEASURE", "0")  # what is known is not asked again
    assert predict(recipe, Run(tmp_path / "run"), counted=False).costs == found.costs
    skillcompose.train(recipe, tmp_path / "run", until="facts")
    stored = json.loads((tmp_path / "run" / PLAN).read_text())
    assert stored["stages"]["adapters"]["seconds"] == pytest.approx(found.costs["adapters"].seconds or 0, rel=0.1)
    assert "minutes" in explain(recipe, tmp_path / "run").splitlines()[0]
    rows = {row[0]: row for row in spent(Run(tmp_path / "run"))}
    assert rows["evaluation"][2] == "?"
    assert rows["facts"][2] != "?"


def test_the_report_says_what_each_stage_took(finished_run: Path) -> None:
    html = (finished_run / "07-evaluation" / "report.html").read_text()
    assert "Cost of the stages" in html
    assert spent(Run(finished_run))[0] == ["stage", "predicted minutes", "took"]


def test_a_plan_of_a_known_machine_loads_no_torch(recipe_file: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, skillcompose\nfrom skillcompose.planning import explain\n"
        "explain(skillcompose.Recipe.from_yaml(sys.argv[1]), sys.argv[2])\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, recipe_file, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
