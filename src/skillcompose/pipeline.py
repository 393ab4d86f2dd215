"""What would run and why, and `train`, which runs the stages that are missing or stale."""

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from skillcompose.errors import MasteryError, RunError, SkillComposeError, StageError
from skillcompose.memory import release_memory
from skillcompose.progress import Progress
from skillcompose.recipe import Recipe
from skillcompose.run import STAGE_NAMES, Run
from skillcompose.stages import STAGES, Stage, Work, own_models, stage_key
from skillcompose.types import read_json, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One line of a plan: `reason` says why the stage runs, or why it is skipped."""

    name: str
    key: str
    runs: bool
    reason: str


def plan(recipe: Recipe, folder: str | Path, force: str | None = None) -> list[Step]:
    """What `train` would do now, stage by stage, with the reason.

    Stages after the first that runs are listed as running: their inputs may come out unchanged, and then
    `train` skips them after all.
    """
    run = Run(folder)
    steps: list[Step] = []
    for stage in STAGES:
        if steps and steps[-1].runs:
            first = next(step.name for step in steps if step.runs)
            reason = f"its inputs may change when {first} has run" if run.record(stage.name) else "not run yet"
            steps.append(Step(stage.name, "", True, reason))
            continue
        steps.append(_step(stage, recipe, run, force))
    return steps


def _step(stage: Stage, recipe: Recipe, run: Run, force: str | None) -> Step:
    key = stage_key(stage, recipe, run)
    if key is None:
        return Step(stage.name, "", True, "its input is missing")
    record = run.record(stage.name)
    if force == stage.name:
        return Step(stage.name, key, True, "forced")
    if record is None:
        return Step(stage.name, key, True, "not finished" if run.stage(stage.name).is_dir() else "not run yet")
    if record["key"] != key:
        return Step(stage.name, key, True, "its settings or inputs changed")
    return Step(stage.name, key, False, "up to date: settings and inputs are unchanged")


def is_current(name: str, recipe: Recipe, run: Run) -> bool:
    """Whether the stage has finished with these settings and with what the earlier stages hold now."""
    return not _step(next(stage for stage in STAGES if stage.name == name), recipe, run, None).runs


def evaluated(run: Run) -> Path:
    """The folder of the evaluation; a warning says so if it is not of the present policy."""
    folder = run.require("evaluation")
    if not is_current("evaluation", load_recipe(run), run):
        older = "What follows is older than the run's inputs, its recipe's settings or this version"
        logger.warning("%s; `skillcompose train` brings it up to date.", older)
    return folder


def train(
    recipe: Recipe,
    folder: str | Path | None = None,
    *,
    until: str | None = None,
    force: str | None = None,
    allow_unmastered: bool = False,
) -> Run:
    """Run the missing and stale stages in order; interrupted work goes on where it stopped.

    Args:
        recipe: What to train.
        folder: The run, `runs/<recipe name>` when None.
        until: Stop after this stage.
        force: Run this stage again although it is up to date.
        allow_unmastered: Go on when an atomic skill is below the mastery gate; the report says so.

    Returns:
        The run, with every requested stage finished.

    Raises:
        SkillComposeError: What went wrong, and what to do next.
        ValueError: `until` or `force` is no stage.
    """
    for name in (until, force):
        if name is not None and name not in STAGE_NAMES:
            raise ValueError(f"there is no stage {name!r}; there are {', '.join(STAGE_NAMES)}")
    if recipe.max_new_tokens <= recipe.max_answer_tokens:
        logger.warning(
            "max_new_tokens: answers are cut after %d tokens, and a right one may have %d (max_answer_tokens)",
            recipe.max_new_tokens,
            recipe.max_answer_tokens,
        )
    run = Run(folder or Path("runs") / recipe.name)
    if run.folder.resolve().is_relative_to(recipe.folder):
        raise RunError(
            f"{run.folder} lies in the knowledge base {recipe.folder}, which would read its own results; "
            "train from another folder, or name one with --run"
        )
    with run.lock():
        if folder is None:
            _refuse_another_recipe(run, recipe)
        _forget_another_base(run, recipe)
        write_json(run.recipe_file, recipe.model_dump(mode="json") | {"source": str(recipe.source.resolve())})
        planned, forced = False, run.folder / "forced.json"
        # What was forced before an interruption is not forced again by the same command.
        if force and forced.is_file() and read_json(forced) == force:
            force = None
        for number, stage in enumerate(STAGES, 1):
            step = _step(stage, recipe, run, force)
            title = f"[{number}/{len(STAGES)}] {stage.name}"
            if not step.runs:
                logger.info("%s: skipped, %s", title, step.reason)
            else:
                if not planned:
                    _predict(recipe, run, stage.name)
                    planned = True
                # A forced stage that was interrupted is not begun anew by the same command.
                resume = force != stage.name or run.record(stage.name) is None
                _run_stage(stage, step, recipe, run, title, allow_unmastered, resume)
                if force == stage.name:
                    write_json(forced, force)
            if stage.name == until:
                break
        forced.unlink(missing_ok=True)
    return run


def _refuse_another_recipe(run: Run, recipe: Recipe) -> None:
    """Two recipes of one name must not write over each other's hours."""
    with suppress(FileNotFoundError, json.JSONDecodeError):
        other = Path(read_json(run.recipe_file).get("source", ""))
        if other.is_file() and not (recipe.source.is_file() and other.samefile(recipe.source)):
            raise RunError(
                f"{run.folder} is of another recipe with the same name, {other}; "
                f"change the name in this one, or say --run {run.folder} to train it there"
            )


def _forget_another_base(run: Run, recipe: Recipe) -> None:
    """Nobody may ask what was trained on another base, even if this training is stopped before it comes to that."""
    with suppress(FileNotFoundError, json.JSONDecodeError):
        if read_json(run.recipe_file).get("model") != recipe.model:
            for stage in STAGES:
                if "model" in stage.settings:
                    (run.stage(stage.name) / "stage.json").unlink(missing_ok=True)


def _predict(recipe: Recipe, run: Run, first: str) -> None:
    """Keep what the plan says of the stages, `first` being the first that runs, for the report to compare."""
    from skillcompose.planning import store

    # What is wrong with the knowledge base is for its stage to say.
    with suppress(SkillComposeError):
        store(recipe, run, counted=first in ("adapters", "composition", "evaluation"))


def _run_stage(
    stage: Stage, step: Step, recipe: Recipe, run: Run, title: str, allow_unmastered: bool, resume: bool
) -> None:
    logger.info("%s: %s", title, step.reason)
    if not resume:
        (run.stage(stage.name) / "started.json").unlink(missing_ok=True)
    (run.stage(stage.name) / "stage.json").unlink(missing_ok=True)
    folder = run.start(stage.name, step.key, stage.keeps if resume else ())
    release_memory()
    try:
        stage.function(Work(recipe, folder, run, Progress(title), allow_unmastered))
    except StageError as error:
        kept = f"Finished work is kept in {run.folder}"
        kept += "." if isinstance(error, MasteryError) else "; the same command goes on from there."
        error.stage, error.args = stage.name, (f"{stage.name}: {error}\n{kept}",)
        raise
    seconds = run.finish(stage.name, step.key, own_models(stage, recipe))
    logger.info("%s: done in %s", title, duration(seconds))


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def load_recipe(run: Run) -> Recipe:
    """The recipe that the run was made by, as it stood then."""
    try:
        return Recipe(**read_json(run.recipe_file))
    except (ValidationError, json.JSONDecodeError) as error:
        wrong = str(error)
        if isinstance(error, ValidationError):
            wrong = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise RunError(
            f"{run.recipe_file} was written by another version, or is damaged ({wrong}); train its recipe again"
        ) from error
