"""A run directory: numbered stage folders, each finished by a `stage.json` that is written last."""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from skillcompose.errors import RunError
from skillcompose.types import read_json, readable, write_json

STAGE_NAMES = ("passages", "facts", "index", "questions", "adapters", "composition", "evaluation")
LOCK = ".lock"
PACKAGES = ("torch", "transformers", "trl", "peft", "faiss-cpu", "sentence-transformers")


class Run:
    """The folder of one training run.

    A stage is finished when its `stage.json` exists, and up to date when the key in it equals the computed one.
    `started.json` marks an unfinished stage: the same key resumes it, another one clears the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """An existing run.

        Raises:
            RunError: The folder is missing or is no run.
        """
        run = cls(folder)
        if not run.recipe_file.is_file():
            raise RunError(f"{folder} is not a run: no recipe.json in it; `skillcompose train RECIPE` makes one")
        return run

    @property
    def recipe_file(self) -> Path:
        return self.folder / "recipe.json"

    def stage(self, name: str) -> Path:
        return self.folder / f"{STAGE_NAMES.index(name) + 1:02d}-{name}"

    def record(self, name: str) -> dict[str, Any] | None:
        """What `stage.json` says, None when the stage is not finished."""
        path = self.stage(name) / "stage.json"
        try:
            return read_json(path)
        except FileNotFoundError:
            return None
        except json.JSONDecodeError as error:
            raise RunError(f"{path} is damaged ({error}); delete it to run the stage again") from error

    def require(self, name: str) -> Path:
        """The folder of a finished stage.

        Raises:
            RunError: The stage has not finished.
        """
        if self.record(name) is None:
            raise RunError(f"{self.folder} has no finished stage {name!r}; finish it with `skillcompose train`")
        return self.stage(name)

    def start(self, name: str, key: str, keeps: tuple[str, ...] = ()) -> Path:
        """The stage's folder, emptied unless an interrupted run of the same key left its work in it.

        Parts named in `keeps` stay; the stage itself tells whether they are still what it would make.
        """
        folder = self.stage(name)
        started, seconds = folder / "started.json", 0.0
        before = read_json(started) if started.is_file() else {}
        if before.get("key") == key:
            # A killed process leaves no word of when it ended; what it did after its last file is done again.
            last = max(path.stat().st_mtime for path in folder.rglob("*"))
            seconds = before["seconds"] + max(0.0, last - before["begun"])
        else:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if path.name not in keeps:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(started, {"key": key, "seconds": seconds, "begun": time.time()})
        return folder

    def elapsed(self, name: str) -> float:
        """Seconds that an unfinished stage has taken, interrupted processes of it included."""
        started = read_json(self.stage(name) / "started.json")
        seconds: float = started["seconds"] + time.time() - started["begun"]
        return seconds

    def finish(self, name: str, key: str, models: dict[str, str] | None = None) -> float:
        """Mark the stage as finished, made with models of these fingerprints; returns the seconds that it took."""
        folder, seconds = self.stage(name), self.elapsed(name)
        outputs = {path.relative_to(folder).as_posix(): file_digest(path) for path in stage_files(folder)}
        record = {"key": key, "seconds": round(seconds, 1), "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        record |= {"packages": package_versions(), "models": models or {}, "outputs": outputs}
        write_json(folder / "stage.json", record)
        readable(folder, folder / "stage.json")
        # After it: a process that is killed between them has not lost its checkpoints.
        shutil.rmtree(folder / "work", ignore_errors=True)
        (folder / "started.json").unlink()
        return seconds

    def outputs_digest(self, name: str) -> str | None:
        record = self.record(name)
        return None if record is None else digest(record["outputs"])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One writing process a folder; the kernel drops the lock when the process dies.

        Raises:
            RunError: Another process holds it, or the folder can have none.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / LOCK).open("w")
        except OSError as error:
            raise RunError(f"{self.folder} cannot be written ({error.strerror}); name another with --run") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another process is writing {self.folder}; wait for it or stop it") from None
            except OSError as error:
                why = f"its file system locks no files ({error.strerror})"
                raise RunError(f"{self.folder}: {why}; name a folder on a local disk with --run") from error
            yield


def stage_files(folder: Path) -> list[Path]:
    """The files of a stage that count as its output: no markers, no timings, no checkpoints."""
    skipped = {"stage.json", "started.json", "timing.json"}
    work = folder / "work"
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(work))
    return sorted(path for path in files if path.name not in skipped)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def package_versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
