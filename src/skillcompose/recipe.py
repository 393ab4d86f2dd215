"""The recipe: one YAML file, one section per stage, typed and checked as a whole before anything is loaded."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from skillcompose.builtin import resolve
from skillcompose.errors import RecipeError
from skillcompose.sections import (
    Adapters,
    Composition,
    Evaluation,
    Facts,
    Index,
    Passages,
    Questions,
    Relation,
    Section,
)
from skillcompose.types import Skill


class Unambiguous(yaml.SafeLoader):
    """YAML takes the last of two equal keys, and a relation is lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):  # `{{ name }}`: refused by YAML's own loader
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Recipe(Section):
    """A whole recipe. `source` is the file it came from; relative paths start at its folder."""

    name: str = Field(min_length=1)
    """The run goes to `runs/NAME`."""
    seed: int = Field(0, ge=0)
    """Of splits, samples and training."""
    model: str
    """The base: `builtin:...`, a folder with safetensors, or a Hugging Face name."""
    knowledge_base: str
    """The folder with documents and tables, read recursively."""
    max_new_tokens: int = Field(48, ge=8)
    """Longest answer in tokens, wherever the model answers."""
    max_answer_tokens: int = Field(40, ge=1)
    """A longer one earns no reward; a question whose gold answer is longer is dropped. 20 for each hop are enough,
    and `max_new_tokens` must leave room for them."""
    passages: Passages = Passages()
    facts: Facts
    index: Index = Index()
    questions: Questions = Questions()
    adapters: Adapters
    composition: Composition
    evaluation: Evaluation = Evaluation()
    source: Path = Field(Path("recipe.yaml"), exclude=True)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> "Recipe":
        """Read, override and check a recipe.

        Args:
            path: The YAML file.
            overrides: Dotted keys to values, `{"composition.grpo.max_steps": 10}`.

        Raises:
            RecipeError: With every problem found, each with its dotted path.
        """
        path = Path(path)
        try:
            data = yaml.load(path.read_text(encoding="utf-8"), Unambiguous)
        except OSError as error:
            raise RecipeError(str(path), [("file", f"cannot be read ({error.strerror}); check the path")]) from error
        except UnicodeDecodeError as error:
            raise RecipeError(str(path), [("file", f"is not UTF-8 (byte {error.start}); save it as UTF-8")]) from error
        except (yaml.YAMLError, ValueError) as error:  # the latter: a 30th of February
            where = " ".join(str(error).split())
            raise RecipeError(str(path), [("file", f"is not valid YAML: {where}")]) from error
        if not isinstance(data, dict):
            raise RecipeError(str(path), [("file", "must be a mapping of sections; start from `skillcompose init`")])
        problems = [problem for key, value in (overrides or {}).items() if (problem := _override(data, key, value))]
        from skillcompose.checks import explain, problems_of

        try:
            recipe = cls.model_validate(data | {"source": path})
        except ValidationError as error:
            raise RecipeError(str(path), problems + explain(error, data, path)) from None
        problems += problems_of(recipe)
        if problems:
            raise RecipeError(str(path), problems)
        return recipe

    @property
    def folder(self) -> Path:
        """The knowledge base, an absolute folder."""
        return (self.beside / self.knowledge_base).resolve()

    @property
    def beside(self) -> Path:
        """The folder of the recipe, where its relative paths start."""
        return self.source.parent

    def base(self) -> str:
        """The base model's folder, or its name on the hub; a built-in one is fetched if it is not there.

        Raises:
            ModelError: A path that is no folder, or a built-in that cannot be fetched.
        """
        return resolve(self.model, self.beside)

    @property
    def reward_file(self) -> Path:
        """Where a reward of the user's stands when it is beside the recipe, and in no installed module."""
        return self.beside / f"{self.composition.reward.partition(':')[0].replace('.', '/')}.py"

    def at(self, dotted: str) -> Any:
        """The section or value at a dotted path, None in a section that the recipe leaves out."""
        return functools.reduce(lambda section, name: section and getattr(section, name), dotted.split("."), self)

    def relation(self, name: str) -> Relation:
        return self.facts.relations[name]

    def without(self, skill: str) -> "Recipe":
        """The recipe of a run of another name, whose start lacks an atomic skill: what can RL make of it?"""
        parametric, contextual = self.composition.weights
        weights = (0.0, contextual) if skill == Skill.PARAMETRIC else (parametric, 0.0)
        composition = self.composition.model_copy(update={"ablate": skill, "weights": weights})
        return self.model_copy(update={"name": f"{self.name}-without-{skill}", "composition": composition})


def parsed(pairs: Sequence[str]) -> dict[str, Any]:
    """`["seed=1"]` -> `{"seed": 1}`: what the command line's `-o` sets, values as in YAML.

    Raises:
        RecipeError: A pair without a key, or with a value that is no YAML.
    """
    values, problems = {}, []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            problems.append((pair, "write KEY=VALUE"))
            continue
        try:
            values[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            problems.append((pair, f"the value is no YAML; put it into quotes: {key}='\"...\"'"))
    if problems:
        raise RecipeError("-o", problems)
    return values


def path_relations(path: str) -> list[str]:
    """`"depends > version"` -> `["depends", "version"]`."""
    return [part.strip() for part in path.split(">")]


def _override(data: dict[str, Any], dotted: str, value: Any) -> tuple[str, str] | None:
    *parents, last = dotted.split(".")
    for name in parents:
        section = data.get(name, {})
        if not isinstance(section, dict):
            return dotted, f"{name!r} holds a value, not a section, so nothing can be set below it"
        # A copy, because a YAML alias makes two sections one object.
        data[name] = dict(section)
        data = data[name]
    data[last] = value
    return None
