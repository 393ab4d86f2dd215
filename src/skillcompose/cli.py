"""The command line: parse, one SDK call, print. Results go to stdout, talk to stderr."""

import dataclasses
import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

import skillcompose
from skillcompose.errors import SkillComposeError
from skillcompose.results import as_shown, hops_shown
from skillcompose.run import STAGE_NAMES, Run

RECIPE = click.argument("recipe", type=click.Path(dir_okay=False, path_type=Path))
RUN = click.argument("run", type=click.Path(path_type=Path))
FOLDER = click.option("--run", "folder", type=click.Path(path_type=Path), help="Run folder [default: runs/NAME].")
OVERRIDE = click.option(
    "-o",
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set one recipe value, e.g. -o composition.grpo.max_steps=20.",
)
FORCE = click.option("--force", type=click.Choice(STAGE_NAMES), help="Run this stage again.")
ATOMIC = click.Choice(["parametric", "contextual"])


class Commands(click.Group):
    """Prints a user's error in one message and exits with 1; any other exception is our bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SkillComposeError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            resumed = ctx.invoked_subcommand in ("train", "eval")
            click.echo("\nInterrupted" + "; the same command goes on from here." * resumed, err=True)
            ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(skillcompose.__version__, prog_name="skillcompose")
def main() -> None:
    """Teach a small model two atomic skills, one LoRA each, and compose them by reinforcement learning."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("skillcompose")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def load(recipe: Path, overrides: tuple[str, ...]) -> "skillcompose.Recipe":
    from skillcompose.recipe import parsed

    return skillcompose.Recipe.from_yaml(recipe, parsed(overrides))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "knowledge",
    type=click.Path(path_type=Path),
    help="Propose a recipe for the tables and documents in this folder, which stays where it is.",
)
def init(folder: Path, knowledge: Path | None) -> None:
    """Write a project that trains as it stands: a recipe and a small knowledge base, or a recipe for your folder."""
    from skillcompose.starter import write_project

    recipe = write_project(folder, knowledge)
    click.echo(f"{recipe}")
    click.echo(f"Next: skillcompose train {recipe}", err=True)


@main.command()
@RECIPE
@OVERRIDE
def check(recipe: Path, overrides: tuple[str, ...]) -> None:
    """Report every problem of a recipe at once; nothing is loaded."""
    load(recipe, overrides)
    click.echo(f"{recipe}: ok")


@main.command()
@RECIPE
@FOLDER
@OVERRIDE
@FORCE
def plan(recipe: Path, folder: Path | None, overrides: tuple[str, ...], force: str | None) -> None:
    """Show what `train` would do now and why, what it costs, and where the facts of each relation live.

    The first time on a machine some batches are measured (SKILLCOMPOSE_MEASURE=0 leaves that out).
    """
    from skillcompose.planning import explain

    loaded = load(recipe, overrides)
    click.echo(explain(loaded, folder or Path("runs") / loaded.name, force))


@main.command()
@RECIPE
@FOLDER
@OVERRIDE
@FORCE
@click.option("--until", type=click.Choice(STAGE_NAMES), help="Stop after this stage.")
@click.option("--allow-unmastered", is_flag=True, help="Go on when an atomic skill is below the mastery gate.")
@click.option("--ablate", type=ATOMIC, help="RL from a start without this skill, in runs/NAME-without-SKILL.")
def train(
    recipe: Path,
    folder: Path | None,
    overrides: tuple[str, ...],
    force: str | None,
    until: str | None,
    allow_unmastered: bool,
    ablate: str | None,
) -> None:
    """Run the missing and stale stages, in order; interrupted work is resumed."""
    loaded = load(recipe, overrides)
    loaded = loaded.without(ablate) if ablate else loaded
    run = skillcompose.train(loaded, folder, until=until, force=force, allow_unmastered=allow_unmastered)
    if run.record("evaluation") is not None and until in (None, "evaluation"):
        click.echo(as_shown(run.require("evaluation")))
    else:
        click.echo(run.folder)


@main.command()
@RUN
@click.argument("question")
@click.option("--show-passages", is_flag=True, help="Print the retrieved passages too.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
def ask(run: Path, question: str, show_passages: bool, as_json: bool) -> None:
    """Ask the composed policy of a run, or of an exported folder, one question."""
    answer = skillcompose.Policy.load(run).answer(question)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(answer), ensure_ascii=False))
        return
    click.echo(answer.text or f"(no readable answer) {answer.completion}")
    click.echo(hops_shown(answer), nl=False)
    if show_passages:
        for number, hit in enumerate(answer.passages, 1):
            click.echo(f"  [{number}] {hit.passage.title}: {hit.passage.text}")


@main.command()
@RUN
def chat(run: Path) -> None:
    """Ask the policy of a run or an exported folder question after question; an empty line ends it.

    "Who maintains it?" is understood: a pronoun stands for what the last answer gave or was about.
    """
    policy = skillcompose.Policy.load(run)
    turns: list[tuple[str, str]] = []
    with suppress(EOFError):  # at which click's own prompt aborts
        for said in iter(lambda: input("> ").strip(), ""):
            question = policy.standalone(said, turns)
            if question != said:
                click.echo(f"({question})")
            answer = policy.answer(question)
            turns.append((question, answer.completion))
            click.echo(answer.text or f"(no readable answer) {answer.completion}")
            click.echo(hops_shown(answer), nl=False)


@main.command(name="eval")
@RUN
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json.")
@click.option(
    "--pass-at-k", type=click.IntRange(2), metavar="K", help="Sample K answers a question before and after RL."
)
@click.option(
    "--adapter",
    "others",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A further adapter's folder for --pass-at-k; may be given several times.",
)
@click.option("--attribution", is_flag=True, help="Ask without passages and with conflicting ones.")
@click.option("--retrieval", is_flag=True, help="Search with each ranking alone; needs the questions stage only.")
@click.option("--questions", type=click.IntRange(1), default=60, show_default=True, help="For each level, or in all.")
def evaluate(
    run: Path,
    as_json: bool,
    pass_at_k: int | None,
    others: tuple[Path, ...],
    attribution: bool,
    retrieval: bool,
    questions: int,
) -> None:
    """Print the ladder of a finished run.

    With --pass-at-k whether RL synthesised the skill or amplified it; with --attribution what each source contributes;
    with --retrieval what each way to search finds.
    """
    from skillcompose.pipeline import evaluated, load_recipe

    if sum(map(bool, (pass_at_k, attribution, retrieval))) > 1 or (others and not pass_at_k):
        raise click.UsageError("--pass-at-k (with --adapter), --attribution and --retrieval are one call each")
    opened = Run.open(run)
    found: Any
    if retrieval:
        from skillcompose.evaluation import retrieval as searches

        found, text = searches.measure(opened), searches.as_text
    elif attribution:
        from skillcompose.evaluation import attribution as sources

        found, text = sources.measure(opened, questions), sources.as_text
    elif pass_at_k:
        from skillcompose.evaluation import pass_at_k as sampled
        from skillcompose.progress import Progress

        found = sampled.measure(opened, pass_at_k, questions, Progress(), sampled.named(others))
        text = sampled.as_text
    else:
        folder = evaluated(opened)
        metrics = (folder / "metrics.json").read_text(encoding="utf-8").rstrip("\n") if as_json else as_shown(folder)
        click.echo(metrics)
        return
    click.echo(json.dumps(found) if as_json else text(found))
    if not retrieval:
        from skillcompose.evaluation.report import write_diagnosis

        click.echo(f"\nReport: {write_diagnosis(opened.folder / 'diagnosis', load_recipe(opened).name)}", err=True)


@main.command()
@RUN
def report(run: Path) -> None:
    """Print the path of a run's report; to stderr what each stage took, beside what was predicted."""
    from skillcompose.pipeline import evaluated
    from skillcompose.planning import spent
    from skillcompose.results import as_text

    opened = Run.open(run)
    click.echo((evaluated(opened) / "report.html").resolve())
    click.echo(as_text(spent(opened)), err=True)


@main.command()
@RUN
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--form", type=click.Choice(["merged", "adapter", "gguf"]), default="merged", show_default=True)
def export(run: Path, folder: Path, form: str) -> None:
    """Write the composed policy of RUN to a new FOLDER, for other tools.

    merged: weights that transformers and vLLM load, tokenizer, index, embedder. adapter: the LoRA instead of the
    weights, for PEFT and vLLM. gguf: one file for llama.cpp, and a Modelfile for Ollama.
    """
    from skillcompose.serving.export import export as write

    found = write(Run.open(run), folder, form)
    click.echo(folder)
    click.echo(f"Logits differ by {found['drift']:.1e}; same answer on {found['same']} of {found['asked']}.", err=True)


@main.command()
@RUN
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--log-texts", is_flag=True, help="Log questions and answers too.")
def serve(run: Path, host: str, port: int, log_texts: bool) -> None:
    """Serve the policy of a run or an exported folder: OpenAI's chat API, /answer, /retrieve, /metrics.

    The key that clients must send is SKILLCOMPOSE_API_KEY; an address that is not this machine's own needs one.
    """
    from skillcompose.serving.server import run as run_server

    run_server(run, host, port, log_texts)


@main.command()
@click.argument("names", nargs=-1)
def fetch(names: tuple[str, ...]) -> None:
    """Fetch built-in models (all, or NAMES) into the cache, for a machine that will be offline."""
    from skillcompose.builtin import BUILTIN, builtin_folder

    for name in names or BUILTIN:
        click.echo(builtin_folder(name.removeprefix("builtin:")))


@main.command()
def doctor() -> None:
    """Show what this machine can do: cores, threads, bf16, allocator, models."""
    from skillcompose.machine import findings

    for name, found in findings().items():
        click.echo(f"{name:16} {found}")
