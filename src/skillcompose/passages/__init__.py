"""Stage 1: documents -> `passages.jsonl` and `passages.report.json` (what was read, what was not, and why)."""

from skillcompose.errors import KnowledgeBaseError
from skillcompose.passages.markdown import read_document
from skillcompose.pipeline import Work
from skillcompose.types import Passage, write_json, write_jsonl

DOCUMENTS = (".md", ".txt")
TABLES = (".csv",)


def run(work: Work) -> None:
    """Read every document of the knowledge base; a file that cannot be read is counted with its reason."""
    folder = work.recipe.folder
    passages: list[Passage] = []
    unread: dict[str, str] = {}
    documents = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in TABLES:
            continue
        if path.suffix.lower() not in DOCUMENTS:
            unread[name] = f"not a document type that is read ({', '.join(DOCUMENTS)})"
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            unread[name] = f"cannot be read as UTF-8 text: {error}"
            continue
        documents += 1
        passages += read_document(text, name, work.recipe.passages.max_words)
    tables = any(path.suffix.lower() in TABLES for path in folder.rglob("*"))
    if not passages and not tables:
        raise KnowledgeBaseError(f"{folder} holds no {', '.join(DOCUMENTS + TABLES)} file with text in it")
    write_jsonl(work.folder / "passages.jsonl", passages)
    report = {"documents": documents, "passages": len(passages), "unread": unread}
    write_json(work.folder / "passages.report.json", report)
