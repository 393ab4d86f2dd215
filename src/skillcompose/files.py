"""What must hold of a file before a parser is given it."""

import zipfile
from pathlib import Path

EXPANSION = 200  # of a zip's members, together; text shrinks about tenfold
UNPACKED = 500 * 2**20  # bytes


class Unreadable(ValueError):
    """Why one file is not read; the run goes on."""


def check_file(path: Path, folder: Path, max_megabytes: int, setting: str = "the limit") -> None:
    """Raises `Unreadable` for what is no ordinary file below the folder, or too large."""
    name = path.relative_to(folder).as_posix()
    if name != printable(name):
        raise Unreadable("has a name with control characters, or none in UTF-8; rename it")
    if not path.is_file():
        link = path.is_symlink() and not path.exists()
        raise Unreadable("is a link to nothing" if link else "is no ordinary file, or a link to a folder or a device")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise Unreadable("is a link to outside of the knowledge base")
    size = path.stat().st_size / 2**20
    if size > max_megabytes:
        raise Unreadable(f"has {size:.0f} MiB, more than {setting}: {max_megabytes}")


def printable(name: str) -> str:
    """A file's name with escapes for what no terminal should be sent and no JSON can hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def check_zip(path: Path) -> None:
    """Raises `Unreadable` for a zip archive that is none, or that would unpack to gigabytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        raise Unreadable("is damaged: no zip archive") from None
    if size > min(EXPANSION * path.stat().st_size, UNPACKED):
        raise Unreadable(f"would unpack to {size / 2**20:.0f} MiB, {size / path.stat().st_size:.0f} times its size")
