"""What the documentation says is true: the tutorial runs, commands parse, recipes check, links lead somewhere."""

import ast
import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from test_recipes import TINY

import skillcompose
from skillcompose import libraries, sections
from skillcompose.cli import main
from skillcompose.starter import write_project

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [
    *PAGES,
    *ROOT.glob("*.md"),
    *(ROOT / name for name in ("recipes/README.md", "examples/README.md", "benchmarks/RESULTS.md")),
]
FENCE = re.compile(r"^```([a-z]*)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, title and text of the fenced blocks of a page."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def every(*languages: str) -> list[Any]:
    """The blocks of these languages in all texts."""
    found = [(page, text) for page in TEXTS for language, _, text in blocks(page) if language in languages]
    return [pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}") for number, (page, text) in enumerate(found)]


def make_tiny(path: Path, tiny_model: Path, embedder: Path) -> None:
    """The same recipe at a size that a test can wait for, with gates that every skill passes."""
    data = yaml.safe_load(path.read_text())
    settings = TINY | {"model": str(tiny_model), "index.embedder": str(embedder), "index.min_recall": 0.0}
    for stage in ("adapters", "composition"):
        settings |= {f"{stage}.mastery.{skill}": [0.0, 0.0] for skill in ("parametric", "contextual")}
    for dotted, value in settings.items():
        *sections, name = dotted.split(".")
        section = data
        for key in sections:
            section = section.setdefault(key, {})
        section[name] = value
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def costless(text: str) -> str:
    """A plan with its columns folded, and without minutes, memory and disk."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(re.sub(r"\b(run|skip) \S+ \S+(?: GiB)? \S+ MiB", r"\1", line) for line in lines)


def run(line: str, folder: Path) -> str:
    """One line of a shell; our own commands run in this process, which has loaded torch already."""
    if line.startswith("skillcompose "):
        result = CliRunner().invoke(main, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        return result.stdout
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-c", line]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_the_tutorial_runs_as_it_stands(
    tmp_path: Path, tiny_model: Path, embedder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = {}
    for language, title, text in blocks(ROOT / "docs" / "tutorial.md"):
        if title:
            assert len(text.splitlines()) <= 10
            Path(title).write_text(text)
        for line in text.splitlines() if language == "bash" else ():
            printed[line] = run(line, tmp_path)
            if line == "skillcompose init my-project":
                make_tiny(tmp_path / "my-project" / "recipes" / "own-folder.yaml", tiny_model, embedder)
    # Minutes are this machine's, and what they are made of is tested elsewhere; the rest is the same everywhere.
    plan = costless(printed["skillcompose plan my-project/recipes/own-folder.yaml"])
    for language, _, text in blocks(ROOT / "docs" / "tutorial.md"):
        assert language != "text" or costless(text) in plan
    assert "composed (GRPO)" in printed["skillcompose eval runs/own-folder"]
    assert Path(printed["skillcompose report runs/own-folder"].strip()).is_file()
    assert "python app.py" in printed


def test_the_questions_about_the_starter_have_an_answer() -> None:
    tables = {}
    for name in ("customers", "products"):
        with (ROOT / "src/skillcompose/starter/knowledge" / f"{name}.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
    uses = {row["customer"]: row["uses"] for row in tables["customers"]}
    asked = {name for page in TEXTS for name in re.findall(r"the product that ([A-Z].+?) uses", page.read_text())}
    assert asked
    for customer in asked:
        assert uses[customer] in {row["product"] for row in tables["products"]}


@pytest.mark.parametrize("text", every("bash", ""))
def test_commands_have_these_arguments_and_options(text: str) -> None:
    for line in text.splitlines():
        found = re.match(r"(?:\w+=\S* )*skillcompose (\w+)(.*)", line)
        if found:
            words = shlex.split(found[2], comments=True)
            command = main.commands[found[1]]
            # Unknown options and missing arguments raise here.
            given = command.make_context(found[1], list(words)).params
            known = {option: param.name for param in command.params for option in param.opts}
            assert all(given[known[word]] for word in words if word.startswith("-"))


@pytest.mark.parametrize("text", every("python"))
def test_python_compiles_and_uses_public_names(text: str) -> None:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("sc", "skillcompose")
        ):
            assert node.attr in skillcompose.__all__


DOCUMENTS = {
    "handbook.md": "# Handbook\n\n## Contacts\n\n| Team | Phone |\n|---|---|\n| Mail | 12 |\n| Web | 13 |\n",
    "services/mail.md": "# Mail\n\nOwner: Ann\nHost: mx\n",
}
"""What the pages speak of, beside the starter's tables."""


@pytest.mark.parametrize("text", every("yaml"))
def test_a_part_of_a_recipe_fits_into_the_starters(text: str, tmp_path: Path) -> None:
    path = write_project(tmp_path / "project")
    for name, document in DOCUMENTS.items():
        (tmp_path / "project" / "knowledge" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "project" / "knowledge" / name).write_text(document)
    (path.parent / "rewards.py").write_text("def right_or_near(completions, **columns): ...\n")
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), yaml.safe_load(text))))
    whole = skillcompose.Recipe.from_yaml(path).model_dump(mode="json")
    assert merged(whole, yaml.safe_load(text)) == whole, "something of it was not taken over"


def merged(whole: Any, part: Any) -> Any:
    if isinstance(whole, dict) and isinstance(part, dict):
        return whole | {name: merged(whole.get(name), value) for name, value in part.items()}
    return part


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link and not link.startswith("#"):
            target = (page.parent / link.partition("#")[0]).resolve()
            assert target.exists(), link
            # What the site does not hold cannot be linked from it.
            assert page not in PAGES or target.is_relative_to(ROOT / "docs"), link


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert {page.relative_to(ROOT / "docs").as_posix() for page in PAGES} == set(re.findall(r"[\w/-]+\.md", text))


def test_every_section_of_a_recipe_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "recipe.md").read_text()
    for name, kind in vars(sections).items():
        if isinstance(kind, type) and issubclass(kind, sections.Section) and kind is not sections.Section:
            assert f"::: skillcompose.sections.{name}\n" in text
    refused = [*libraries.OWNED, *(name for names in libraries.UNREAD.values() for name in names), *libraries.TIED]
    assert [name for name in refused if f"`{name}`" not in text] == []


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    assert all(f"::: skillcompose.{name}\n" in text for name in skillcompose.__all__)
