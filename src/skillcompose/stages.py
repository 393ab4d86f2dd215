"""The stages in order: what each reads, and what decides whether it would write something else."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillcompose.builtin import fingerprint, own_folder
from skillcompose.errors import ModelError
from skillcompose.files import printable
from skillcompose.progress import Progress
from skillcompose.recipe import Recipe
from skillcompose.run import Run, digest, file_digest
from skillcompose.sections import MODELS, Composition


@dataclass(frozen=True)
class Stage:
    """A function that reads the folders of earlier stages and writes its own.

    `version` is raised when the code would write something else from the same input; `settings` are the parts of the
    recipe that decide what it writes. The mastery gates are not among them: another threshold retrains nothing.
    """

    name: str
    version: int
    reads: tuple[str, ...]
    settings: tuple[str, ...]
    keeps: tuple[str, ...] = ()
    """Parts that outlive a change of the rest: each has a key of its own, by which it is kept or made anew."""

    @property
    def function(self) -> Callable[["Work"], None]:
        return importlib.import_module(f"skillcompose.{self.name}").run


@dataclass(frozen=True)
class Work:
    """What a stage gets: the recipe, the folder to write, the run to read earlier stages from."""

    recipe: Recipe
    folder: Path
    run: Run
    progress: Progress
    allow_unmastered: bool = False

    def read(self, stage: str) -> Path:
        return self.run.stage(stage)


MODEL = ("model", "max_new_tokens", "max_answer_tokens", "seed")
# All but the gate: another threshold trains nothing again.
COMPOSITION = tuple(name for name in Composition.model_fields if name != "mastery")
STAGES = (
    Stage("passages", 6, (), ("passages", "index.embedder")),
    Stage("facts", 5, ("passages",), ("facts",)),
    Stage("index", 7, ("passages", "facts"), ("index", "facts")),
    Stage("questions", 12, ("facts", "index"), ("questions", "facts", "index", "model", "max_answer_tokens", "seed")),
    Stage(
        "adapters",
        9,
        ("questions",),
        (*MODEL, "adapters.parametric", "adapters.contextual", "adapters.general", "adapters.drift"),
        keeps=("parametric", "contextual", "general.jsonl", "general.json"),
    ),
    Stage(
        "composition",
        13,
        ("questions", "adapters"),
        (*MODEL, *(f"composition.{name}" for name in COMPOSITION)),
        keeps=("start", "traced"),
    ),
    Stage(
        "evaluation",
        11,
        ("facts", "index", "questions", "adapters", "composition"),
        (*MODEL, "evaluation", "index", "facts", "name"),
        keeps=("answers",),
    ),
)


def stage_key(stage: Stage, recipe: Recipe, run: Run) -> str | None:
    """None while an input is unfinished, so that the key cannot be known yet."""
    inputs: dict[str, Any] = {name: run.outputs_digest(name) for name in stage.reads}
    if None in inputs.values():
        return None
    if stage.name in ("passages", "facts"):
        inputs["knowledge base"] = knowledge_base_digest(recipe)
    if "composition.reward" in stage.settings and recipe.reward_file.is_file():
        inputs["reward"] = file_digest(recipe.reward_file)
    if models := own_models(stage, recipe):
        inputs["models"] = models
    settings = {name: _setting(recipe.model_dump(mode="json"), name) for name in stage.settings}
    return digest([stage.name, stage.version, settings, inputs])


def own_models(stage: Stage, recipe: Recipe) -> dict[str, str]:
    """Fingerprints of the model folders that a stage reads: one's own may change under the same name."""
    names = {"model": [recipe.model], "index.embedder": [recipe.index.embedder]}
    names["index"] = [getattr(recipe.index, model) for model in MODELS]
    used = [name for setting in stage.settings for name in names.get(setting, ())]
    return {name: fingerprint(found) for name in used if (found := own_folder(name, recipe.beside))}


def check_models(run: Run, recipe: Recipe) -> None:
    """What answers is what was trained.

    Raises:
        ModelError: A model folder of one's own holds another model than the index or the policy was made with.
    """
    for stage in STAGES:
        if stage.name not in ("index", "composition"):  # what answers
            continue
        made = (run.record(stage.name) or {}).get("models", {})
        for name, now in own_models(stage, recipe).items() if made else ():
            if made.get(name, now) != now:
                raise ModelError(
                    f"{name} is not the model that {run.folder} was made with; put it back, or train again"
                )


def _setting(values: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        values = values[name]
    return values


def knowledge_base_digest(recipe: Recipe) -> str:
    files = sorted(path for path in recipe.folder.rglob("*") if path.is_file())
    return digest({printable(path.relative_to(recipe.folder).as_posix()): _content(path) for path in files})


def _content(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:  # the stage that reads it says so
        return str(error.strerror)
