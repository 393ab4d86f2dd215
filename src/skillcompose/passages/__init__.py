"""Stage 1: documents -> `passages.jsonl` and `passages.report.json` (what was read, what was not, and why)."""

import logging
from typing import Any

from skillcompose.builtin import fingerprint, own_folder, resolve
from skillcompose.errors import KnowledgeBaseError
from skillcompose.files import Unreadable, check_file, printable
from skillcompose.passages.chunks import passages_of, splitter, without_copies
from skillcompose.passages.readers import READERS
from skillcompose.run import digest, file_digest
from skillcompose.stages import Work
from skillcompose.tables import TABLES
from skillcompose.types import Passage, read_jsonl, write_json, write_jsonl

VERSION = 4  # raise it, and the stage's, when a reader would give another text for the same file
REPORT = "passages.report.json"
logger = logging.getLogger(__name__)


def run(work: Work) -> None:
    """Read every document of the knowledge base; a file that cannot be read is counted with its reason.

    What a file gave is kept in the run's `.read`, so that the next run reads only what changed.
    """
    recipe, settings = work.recipe, work.recipe.passages
    split = splitter(resolve(recipe.index.embedder, recipe.beside), settings.max_tokens, settings.overlap)
    own = own_folder(recipe.index.embedder, recipe.beside)  # may hold another model under the same name
    embedder = [recipe.index.embedder, fingerprint(own) if own else ""]
    cache = work.run.folder / ".read"
    cache.mkdir(exist_ok=True)
    passages: list[Passage] = []
    unread: dict[str, str] = {}
    used: set[str] = set()
    documents = tables = 0
    files = sorted(path for path in recipe.folder.rglob("*") if not path.is_dir() or path.is_symlink())
    for path in work.progress.each(files, "reading", len(files)):
        name = path.relative_to(recipe.folder).as_posix()
        if path.suffix.lower() in TABLES:
            tables += 1
            continue
        try:
            check_file(path, recipe.folder, settings.max_megabytes, "passages.max_megabytes")
            if path.suffix.lower() not in READERS:
                raise Unreadable(f"is no document type that is read ({', '.join(READERS)})")
            key = digest([VERSION, name, file_digest(path), settings.model_dump(), embedder])
            file = cache / f"{key[:32]}.jsonl"
            if not file.is_file():
                write_jsonl(file, passages_of(READERS[path.suffix.lower()](path), name, split))
            found = read_jsonl(file, Passage)
        except Exception as error:
            # Whatever a parser makes of a broken file, the others are still to be read.
            unread[printable(name)] = reason(error)
            continue
        used.add(file.name)
        if not found:
            unread[name] = "holds no text"
            continue
        documents += 1
        passages += found
    for file in cache.iterdir():
        if file.name not in used:
            file.unlink()
    if not passages and not tables:
        kinds = ", ".join([*READERS, *TABLES])
        raise KnowledgeBaseError(f"{recipe.folder} holds no file ({kinds}) with text in it{_examples(unread)}")
    if unread:
        logger.warning("%d of %d files were not read; the reasons are in %s", len(unread), len(files), REPORT)
    kept, copies = without_copies(passages)
    write_jsonl(work.folder / "passages.jsonl", kept)
    report: dict[str, Any] = {"documents": documents, "passages": len(kept), "tables": tables}
    write_json(work.folder / REPORT, report | {"copies": copies, "unread": unread})


def reason(error: Exception) -> str:
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, ImportError):
        return f'needs {error.name}: pip install "skillcompose[documents]", then train with --force passages'
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _examples(unread: dict[str, str]) -> str:
    return "".join(f"\n  {name}: {why}" for name, why in list(unread.items())[:5])
