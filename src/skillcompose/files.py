"""What must hold of a file before a parser is given it."""

import zipfile
from pathlib import Path

EXPANSION = 200  # of a zip's members, together; text shrinks about tenfold
UNPACKED = 500 * 2**20  # bytes


class Unreadable(ValueError):
    """Why one file is not read; the run goes on."""


def check_file(path: Path, folder: Path, max_megabytes: int, setting: str = "the limit") -> None:
    """Raises `Unreadable` for what is no ordinary file below the folder, or too large."""
    if not path.is_file():
        raise Unreadable("is a link to nothing" if path.is_symlink() else "is no ordinary file")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise Unreadable("is a link to outside of the knowledge base")
    size = path.stat().st_size / 2**20
    if size > max_megabytes:
        raise Unreadable(f"has {size:.0f} MiB, more than {setting}: {max_megabytes}")


def check_zip(path: Path) -> None:
    """Raises `Unreadable` for a zip archive that is none, or that would unpack to gigabytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        raise Unreadable("is damaged: no zip archive") from None
    if size > min(EXPANSION * path.stat().st_size, UNPACKED):
        raise Unreadable(f"would unpack to {size / 2**20:.0f} MiB, {size / path.stat().st_size:.0f} times its size")
