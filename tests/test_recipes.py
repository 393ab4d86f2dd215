"""Every shipped recipe, and the project that `init` writes, goes through every stage at a tiny size."""

import csv
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import skillcompose
from skillcompose.facts import extract
from skillcompose.recipe import parsed
from skillcompose.run import STAGE_NAMES
from skillcompose.starter import write_project
from skillcompose.types import Level, Question, read_json, read_jsonl

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))
import biographies_build  # noqa: E402

TINY = {
    "index.sparse": "",
    "questions.contextual_rows": 8,
    "adapters.parametric.lora": {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"},
    "adapters.contextual.lora": {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"},
    "adapters.parametric.sft.max_steps": 2,
    "adapters.contextual.sft.max_steps": 2,
    "adapters.mastery.questions": 2,
    "composition.consolidation.rows": 24,
    "composition.consolidation.sft.warmup_steps": 0,
    "composition.mastery.questions": 2,
    "composition.traces": {"sft": {"max_steps": 1}},
    "composition.grpo.max_steps": 1,
    "composition.grpo.warmup_steps": 0,
    "composition.grpo.save_steps": 1,
    "composition.grpo.gradient_accumulation_steps": 1,
    "composition.validate_steps": 1,
    "evaluation": {"questions": 1, "ladder": 1, "atomic": 1},
    "max_new_tokens": 8,
}


@pytest.mark.parametrize(
    "name", ["quickstart", "debian", "debian-full", "own-folder", "biographies-cpu", "biographies-paper"]
)
def test_a_recipe_goes_through_every_stage(name: str, tmp_path: Path, tiny_model: Path, embedder: Path) -> None:
    path = write_project(tmp_path / "project") if name == "own-folder" else ROOT / "recipes" / f"{name}.yaml"
    overrides = TINY | {"model": str(tiny_model), "index.embedder": str(embedder), "index.min_recall": 0.0}
    if name.startswith("biographies"):
        biographies_build.build(tmp_path / "world", known=40, reused=40, new=40, seed=0)
        overrides |= {"knowledge_base": str(tmp_path / "world"), "max_answer_tokens": 200}
        overrides |= {"composition.grpo.per_device_train_batch_size": 8, "composition.replay.rows": 8}
    if name == "debian":  # its table at full size gives the tiny model's long prompts too much to read
        overrides["facts.tables"] = {"owners.csv": {"key": "package", "limit": 60}, "packages.csv": {"key": "package"}}
    if name == "debian-full":
        overrides |= {"facts.known": 60, "max_answer_tokens": 200, "composition.replay.rows": 8}
        overrides |= {"composition.grpo.per_device_train_batch_size": 8}
    recipe = skillcompose.Recipe.from_yaml(path, overrides)
    run = skillcompose.train(recipe, tmp_path / "run", allow_unmastered=True)
    assert all(run.record(stage) for stage in STAGE_NAMES)
    report = read_json(run.stage("questions") / "questions.report.json")
    assert report["questions"]["complementary.test"] > 10
    assert report["questions"]["contextual.test"] > 5


def test_the_overrides_that_shorten_the_demo_are_settings_of_it() -> None:
    lines = [line for line in (ROOT / "recipes" / "reduced.txt").read_text().splitlines() if not line.startswith("#")]
    demo = ROOT / "recipes" / "quickstart.yaml"
    assert skillcompose.Recipe.from_yaml(demo, parsed(lines)).composition.grpo["max_steps"] == 2


def test_the_shipped_world_is_what_its_generator_makes(tmp_path: Path) -> None:
    biographies_build.build(tmp_path, known=100, reused=100, new=200, seed=0)
    shipped = ROOT / "examples" / "biographies"
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file())
    assert all((tmp_path / name).read_bytes() == (shipped / name).read_bytes() for name in files)


def test_no_relation_of_the_world_leads_where_another_one_does() -> None:
    with (ROOT / "examples" / "biographies" / "people.csv").open(newline="") as file:
        people = {row["name"]: row for row in csv.DictReader(file)}
    with (ROOT / "examples" / "biographies" / "register.csv").open(newline="") as file:
        listed = {row["name"]: row for row in csv.DictReader(file)}
    assert len(people) == 100 and len(listed) == 300 and people.keys() < listed.keys()
    for name, row in listed.items():
        met = [row[relation] for relation in biographies_build.INDEX_PEOPLE]
        met += [people[name][relation] for relation in biographies_build.WEIGHTS_PEOPLE] if name in people else []
        assert len(set(met)) == len(met) and name not in met and set(met) <= people.keys()
    for relation in biographies_build.MUTUAL:
        assert all(people[row[relation]][relation] == name for name, row in people.items())


def test_long_paths_have_unseen_bridges_only_or_seen_ones(tmp_path: Path, tiny_model: Path, embedder: Path) -> None:
    models = {"model": str(tiny_model), "index.embedder": str(embedder), "index.sparse": ""}
    overrides = models | {"index.min_recall": 0.0}
    overrides |= {"max_answer_tokens": 300}  # of the tiny model's tokenizer
    recipe = skillcompose.Recipe.from_yaml(ROOT / "recipes" / "biographies-cpu.yaml", overrides)
    folder = skillcompose.train(recipe, tmp_path / "run", until="questions").stage("questions")
    asked = {s: read_jsonl(folder / f"complementary.{s}.jsonl", Question) for s in ("train", "validation", "test")}
    trained = {bridge for split in ("train", "validation") for q in asked[split] for bridge in q.bridges}
    unseen = [q for q in asked["test"] if not q.seen]
    assert {q.hops for q in unseen} == {2, 3, 4}
    for question in asked["test"]:
        known = [bridge in trained for bridge in question.bridges]
        assert any(known) if question.seen else not any(known)
        been = [question.subject, *question.bridges, question.answers[0]]
        assert len(set(been)) == len(been) == question.hops + 1
    levels = Counter(q.level for q in unseen)
    assert all(levels[level] >= 200 for level in Level), levels


def test_the_full_slice_is_asked_about_in_general_words_only() -> None:
    recipe = skillcompose.Recipe.from_yaml(ROOT / "recipes" / "debian-full.yaml")
    relations = recipe.facts.relations.values()
    assert not any(r.questions or r.reference or r.statement or r.passage for r in relations)
    facts = extract(recipe)
    known = {fact.subject for fact in facts.facts if fact.relation == "maintainer"}
    assert len(known) == 300
    assert facts.links["maintainer"].endswith("name rows of maintainers.csv")
    assert facts.links["section"] == "8 of 8 name rows of sections.csv"


def test_the_full_slice_is_derived_from_its_source(tmp_path: Path) -> None:
    """`debian_full_build.py` on a table of three packages: what joins, what is known, several values in one cell."""
    for name in ("debian_build.py", "debian_full_build.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    source = tmp_path / "source"
    (source / "descriptions").mkdir(parents=True)
    header = "package,version,section,maintainer,built_from_source,homepage,depends,recommends,suggests"
    header += ",tag_role,tag_interface,tag_implemented-in,tag_use"
    rows = [
        "abook,1:0.6.1~git2-2+b1,mail,Rhonda,,http://abook.org/,,,,program,text-mode;shell,c,",
        "zzz,2.0-1,mail,Sleep Team,,,abook,,,,,,",
        "yyy,2.0-1,vcs,Sleep Team,,,abook;zzz,,,,,,",
    ]
    (source / "packages.csv").write_text("\n".join([header, *rows]) + "\n")
    for name in ("abook", "zzz", "yyy"):
        (source / "descriptions" / f"{name}.md").write_text(f"# {name}\n\nwhat {name[0]} is made for. More.\n")
    command = [sys.executable, str(tmp_path / "debian_full_build.py"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages = (tmp_path / "debian-full" / "packages.csv").read_text().splitlines()
    assert "abook,what a is made for,,,,Rhonda,0.6.1," in packages
    assert any(line.startswith("yyy,what y is made for,abook;zzz,") for line in packages)
    maintainers = (tmp_path / "debian-full" / "maintainers.csv").read_text()
    assert "Sleep Team,mail,2,team" in maintainers and "Rhonda,mail,1,person" in maintainers
    assert "- Interface: text-mode, shell" in (tmp_path / "debian-full" / "documents" / "mail.md").read_text()


def test_the_slice_is_rebuilt_from_its_source(tmp_path: Path) -> None:
    """`debian_build.py` on a table of two packages: what it keeps, cleans and leaves out."""
    shutil.copy(ROOT / "examples" / "debian_build.py", tmp_path)
    (tmp_path / "debian").mkdir()
    source = tmp_path / "source"
    (source / "descriptions").mkdir(parents=True)
    header = "package,version,section,maintainer,built_from_source,homepage,depends,recommends,suggests"
    header += ",tag_role,tag_interface"
    rows = [
        "abook,1:0.6.1~git2-2+b1,mail,Rhonda,,http://abook.org/,,,,program,text-mode",
        "zzz,2.0-1,mail,Other,,https://www.elsewhere.net/x,abook,,,program,",
    ]
    (source / "packages.csv").write_text("\n".join([header, *rows]) + "\n")
    (source / "descriptions" / "abook.md").write_text("# abook\n\nncurses address book application. Long text.\n")
    (source / "descriptions" / "zzz.md").write_text("# zzz\n\nsleeps until the morning comes. More.\n")
    command = [sys.executable, str(tmp_path / "debian_build.py"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    owners = (tmp_path / "debian" / "owners.csv").read_text().splitlines()
    assert "abook,Rhonda,0.6.1," in owners and "zzz,Other,2.0,elsewhere.net" in owners
    packages = (tmp_path / "debian" / "packages.csv").read_text()
    assert "abook,ncurses address book application,,," in packages
    assert "zzz,sleeps until the morning comes,abook,," in packages
