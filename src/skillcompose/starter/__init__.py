"""`skillcompose init`: a recipe and a small knowledge base that train as they stand."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from skillcompose.errors import KnowledgeBaseError


def write_project(folder: Path) -> Path:
    """Copy the starter project into a new or empty folder.

    Returns:
        The recipe's path.

    Raises:
        KnowledgeBaseError: The folder has something in it; nothing is overwritten.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KnowledgeBaseError(f"{folder} is not empty; name a new folder")
    with as_file(files("skillcompose.starter")) as source:
        for name in ("recipes", "knowledge"):
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "recipes" / "own-folder.yaml"
