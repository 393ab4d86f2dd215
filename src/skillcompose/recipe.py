"""The recipe: one YAML file, one section per stage, typed here and checked as a whole before anything is loaded.

`lora`, `sft` and `grpo` are the keyword arguments of `peft.LoraConfig`, `trl.SFTConfig` and `trl.GRPOConfig` under
their own names. They are checked against the installed sources without importing them (that takes seconds).
"""

import ast
import csv
import difflib
import importlib.util
import string
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skillcompose.errors import RecipeError
from skillcompose.types import Skill

OWNED = {
    "output_dir": "the run folder decides",
    "seed": "set `seed` at the top of the recipe",
    "data_seed": "set `seed` at the top of the recipe",
    "use_cpu": "chosen from the machine",
    "bf16": "chosen from the machine",
    "fp16": "chosen from the machine",
    "report_to": "a run writes its own metrics",
    "resume_from_checkpoint": "`skillcompose train` resumes by itself",
    "save_strategy": "checkpoints are written by `save_steps`",
    "packing": "rows are short; use per_device_train_batch_size",
    "max_length": "rows are never truncated",
    "temperature_eval": "evaluation is greedy",
    "task_type": "always CAUSAL_LM",
}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Table(Section):
    key: str
    """Column that names the row."""
    limit: int | None = Field(None, ge=1)
    """Use the first N rows only."""


class Relation(Section):
    table: str
    column: str
    place: Literal["weights", "index"]
    """Where facts of this relation live: `weights` (parametric skill) or `index` (contextual skill)."""
    reversed: bool = False
    """The cell is the subject and the row's key the object (described as S -> name)."""
    questions: list[str] = Field(default_factory=list)
    """Wordings with {subject}; the last two are held out for validation and test. At least three, or none."""
    statement: str = ""
    """One hop of an answer, with {subject} and {object}."""
    passage: str = ""
    """The sentence written into the index; the statement when empty."""
    reference: list[str] = Field(default_factory=list)
    """Noun phrases for the object, with {subject}; the last is held out for the test. Needed to chain."""

    @property
    def skill(self) -> Skill:
        return Skill.PARAMETRIC if self.place == "weights" else Skill.CONTEXTUAL


class Passages(Section):
    max_words: int = Field(150, ge=20)
    """Longer sections are cut at paragraph or sentence ends."""


class Facts(Section):
    tables: dict[str, Table]
    relations: dict[str, Relation]


class Index(Section):
    embedder: str = "builtin:all-minilm-l6-v2"
    search: Literal["dense", "hybrid"] = "hybrid"
    k: int = Field(3, ge=1)
    min_recall: float = Field(0.95, ge=0, le=1)
    """Warn before training when recall@k of the supporting passage is below."""


class Questions(Section):
    train: list[str] = Field(default_factory=list)
    """Relation paths that RL trains on, "a > b"; chosen from the facts when empty."""
    validation: list[str] = Field(default_factory=list)
    """Paths that select the best checkpoint; no test question uses them."""
    test: list[str] = Field(default_factory=list)
    """Further paths to test; every test also asks the training paths about unseen subjects."""
    unseen_bridges: float = Field(0.4, gt=0, lt=1)
    """Share of bridge entities that no complementary training or validation question passes through."""
    contextual_rows: int = Field(600, ge=1)
    """Supervised rows of the contextual skill."""
    missing: float = Field(0.15, ge=0, lt=1)
    """Share of contextual rows without their supporting passage."""


class Mastery(Section):
    parametric: list[float] = Field(default_factory=lambda: [0.8, 0.5])
    """Lowest exact match on held-out wordings, by number of hops."""
    contextual: list[float] = Field(default_factory=lambda: [0.8, 0.6])
    questions: int = Field(60, ge=1)
    """Questions asked for each skill and number of hops."""


class Adapter(Section):
    lora: dict[str, Any]
    sft: dict[str, Any]


class Adapters(Section):
    parametric: Adapter
    contextual: Adapter
    mastery: Mastery = Mastery()


class Consolidation(Section):
    rows: int = Field(480, ge=1)
    """Atomic rows, half of each skill."""
    sft: dict[str, Any]


class Replay(Section):
    rows: int = Field(8, ge=0)
    """Atomic rows trained on at every GRPO step."""
    weight: float = Field(0.5, ge=0)


class Composition(Section):
    weights: tuple[float, float] = (1.0, 1.0)
    """Weights of the parametric and the contextual adapter in the merge."""
    consolidation: Consolidation
    mastery: Mastery = Mastery(parametric=[0.7, 0.4], contextual=[0.7, 0.5])
    grpo: dict[str, Any]
    replay: Replay = Replay()
    validate_steps: int = Field(10, ge=1)
    """Measure the validation questions every N steps; the best checkpoint becomes the policy."""


class Evaluation(Section):
    questions: int = Field(100, ge=1)
    """Test questions for each level and kind of bridge; the rungs that carry no target are asked `ladder` of them."""
    ladder: int = Field(20, ge=1)
    atomic: int = Field(100, ge=1)
    """Test questions for each atomic skill and number of hops."""
    max_new_tokens: int = Field(48, ge=8)


class Recipe(Section):
    """A whole recipe. `source` is the file it came from; relative paths start at its folder."""

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    model: str
    knowledge_base: str
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
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RecipeError(str(path), [("file", f"cannot be read ({error.strerror}); check the path")]) from error
        except yaml.YAMLError as error:
            where = " ".join(str(error).split())
            raise RecipeError(str(path), [("file", f"is not valid YAML: {where}")]) from error
        if not isinstance(data, dict):
            raise RecipeError(str(path), [("file", "must be a mapping of sections; start from `skillcompose init`")])
        problems = [problem for key, value in (overrides or {}).items() if (problem := _override(data, key, value))]
        try:
            recipe = cls(**data | {"source": path})
        except ValidationError as error:
            raise RecipeError(str(path), problems + _explain(error, data)) from None
        problems += _check(recipe)
        if problems:
            raise RecipeError(str(path), problems)
        return recipe

    @property
    def folder(self) -> Path:
        """The knowledge base, an absolute folder."""
        return (self.source.parent / self.knowledge_base).resolve()

    def relation(self, name: str) -> Relation:
        return self.facts.relations[name]


def path_relations(path: str) -> list[str]:
    """`"depends > version"` -> `["depends", "version"]`."""
    return [part.strip() for part in path.split(">")]


def _override(data: dict[str, Any], dotted: str, value: Any) -> tuple[str, str] | None:
    *parents, last = dotted.split(".")
    for name in parents:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            return dotted, f"{name!r} holds a value, not a section, so nothing can be set below it"
    data[last] = value
    return None


def _nearest(name: str, valid: Any) -> str:
    found = difflib.get_close_matches(name, [str(option) for option in valid], n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else f"; valid: {', '.join(sorted(map(str, valid))[:12])}"


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    """Names that are valid in the section that holds the key at `loc`."""
    kind: Any = Recipe
    for part in loc[:-1]:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
        elif getattr(kind, "__origin__", None) is dict:
            kind = kind.__args__[1]
    fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
    return [name for name in fields if name != "source"]


def _explain(error: ValidationError, data: dict[str, Any]) -> list[tuple[str, str]]:
    problems = []
    for item in error.errors():
        loc, kind = item["loc"], item["type"]
        if kind == "extra_forbidden":
            message = "is not a setting" + _nearest(str(loc[-1]), _fields_at(loc))
        elif kind == "missing":
            message = "is required"
        elif kind == "literal_error":
            expected = [option.strip(" '") for option in str(item["ctx"]["expected"]).replace(" or ", ",").split(",")]
            message = f"is {item['input']!r}" + _nearest(str(item["input"]), expected)
        else:
            message = f"{item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}"
        problems.append((".".join(map(str, loc)), message))
    # The library settings are checked even when the typed part is wrong: all problems at once.
    for place, kind in LIBRARY_SETTINGS.items():
        found: Any = data
        for part in place.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        problems += _check_settings(place, kind, found or {})
    return problems


LIBRARY_SETTINGS = {
    "adapters.parametric.lora": "lora",
    "adapters.parametric.sft": "sft",
    "adapters.contextual.lora": "lora",
    "adapters.contextual.sft": "sft",
    "composition.consolidation.sft": "sft",
    "composition.grpo": "grpo",
}
SOURCES = {
    "lora": [("peft", "tuners/lora/config.py", "LoraConfig"), ("peft", "config.py", "PeftConfig")],
    "sft": [("trl", "trainer/sft_config.py", "SFTConfig")],
    "grpo": [("trl", "trainer/grpo_config.py", "GRPOConfig")],
}
TRAINING_ARGUMENTS = [
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("transformers", "training_args.py", "TrainingArguments"),
]


@cache
def library_fields(kind: str) -> frozenset[str]:
    """Names of a configuration class, read from the source: importing TRL takes six seconds."""
    names = set()
    for package, file, class_name in SOURCES[kind] + (TRAINING_ARGUMENTS if kind != "lora" else []):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        path = Path(spec.origin).parent / file
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == class_name:
                names |= {
                    item.target.id
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                }
    return frozenset(names)


def _check_settings(place: str, kind: str, settings: dict[str, Any]) -> list[tuple[str, str]]:
    problems = []
    for name in settings:
        if name in OWNED:
            problems.append((f"{place}.{name}", f"is set by skillcompose: {OWNED[name]}"))
        elif name not in (valid := library_fields(kind)):
            problems.append((f"{place}.{name}", "is not a setting of the library" + _nearest(name, valid)))
    return problems


def _placeholders(template: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError:
        return {"?"}


def _check(recipe: Recipe) -> list[tuple[str, str]]:
    """Problems that need more than one value: files, columns, paths, templates, models."""
    problems: list[tuple[str, str]] = []
    for place, kind in LIBRARY_SETTINGS.items():
        found: Any = recipe
        for part in place.split("."):
            found = getattr(found, part)
        problems += _check_settings(place, kind, found)
    problems += _check_models(recipe)
    columns: dict[str, list[str]] = {}
    if not recipe.folder.is_dir():
        problems.append(("knowledge_base", f"{recipe.knowledge_base!r} is not a folder beside the recipe"))
    else:
        tables = sorted(p.relative_to(recipe.folder).as_posix() for p in recipe.folder.rglob("*.csv"))
        for name, table in recipe.facts.tables.items():
            if name not in tables:
                problems.append((f"facts.tables.{name}", "no such table" + _nearest(name, tables)))
                continue
            with (recipe.folder / name).open(encoding="utf-8-sig", newline="") as file:
                columns[name] = next(csv.reader(file), [])
            if table.key not in columns[name]:
                problems.append((f"facts.tables.{name}.key", f"no column {table.key!r}" + _nearest(table.key, columns[name])))
    for name, relation in recipe.facts.relations.items():
        place = f"facts.relations.{name}"
        if relation.table not in recipe.facts.tables:
            problems.append((f"{place}.table", f"no table {relation.table!r}" + _nearest(relation.table, recipe.facts.tables)))
        elif relation.table in columns and relation.column not in columns[relation.table]:
            hint = _nearest(relation.column, columns[relation.table])
            problems.append((f"{place}.column", f"no column {relation.column!r}" + hint))
        if 0 < len(relation.questions) < 3:
            problems.append((f"{place}.questions", "needs three wordings or more (two are held out), or none"))
        for field, texts, wanted in (
            ("questions", relation.questions, {"subject"}),
            ("reference", relation.reference, {"subject"}),
            ("statement", [relation.statement] if relation.statement else [], {"subject", "object"}),
            ("passage", [relation.passage] if relation.passage else [], {"subject", "object"}),
        ):
            for text in texts:
                found_names = _placeholders(text)
                if not found_names <= wanted or (field != "statement" and "subject" not in found_names):
                    problems.append((f"{place}.{field}", f"{text!r} must use {{subject}}" + " and {object}" * (len(wanted) > 1)))
    for field in ("train", "validation", "test"):
        for path in getattr(recipe.questions, field):
            names = path_relations(path)
            unknown = [name for name in names if name not in recipe.facts.relations]
            for name in unknown:
                problems.append((f"questions.{field}", f"no relation {name!r}" + _nearest(name, recipe.facts.relations)))
            if not unknown and [recipe.relation(n).place for n in names] != ["index", "weights"]:
                problems.append((f"questions.{field}", f"{path!r} must walk one index relation, then one weights relation"))
    return problems


def _check_models(recipe: Recipe) -> list[tuple[str, str]]:
    from skillcompose.builtin import BUILTIN

    problems = []
    for place, name in (("model", recipe.model), ("index.embedder", recipe.index.embedder)):
        if name.startswith("builtin:") and name.removeprefix("builtin:") not in BUILTIN:
            valid = [f"builtin:{known}" for known in BUILTIN]
            problems.append((place, f"no built-in model {name!r}" + _nearest(name, valid)))
        elif name.startswith((".", "/", "~")) and not (recipe.source.parent / Path(name).expanduser()).is_dir():
            problems.append((place, f"no model folder {name!r}"))
    return problems
