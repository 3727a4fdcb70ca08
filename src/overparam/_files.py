"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment the path holds all of the old or all of the new.

    Safe against a kill at any byte and against other writers of the same path: a temporary file
    in the same folder is written, forced to the disk and renamed. A missing folder is made.

    Raises:
        OSError: the folder cannot be written; the path is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def check_writable(folder: Path, *subfolders: str) -> None:
    """Make sure that files can be written in a folder, before the work that fills it.

    A missing folder is made and removed again, so that a later refusal leaves nothing behind.

    Args:
        folder: where files will be written.
        subfolders: folders in it that will be written too.

    Raises:
        OSError: a folder cannot be made, or a file in it cannot be written.
    """
    made: list[Path] = []
    try:
        for path in (folder, *(folder / name for name in subfolders)):
            _make_folders(path, made)
            probe = path / f".{secrets.token_hex(4)}.part"
            probe.touch(exist_ok=False)
            probe.unlink()
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()


def _make_folders(folder: Path, made: list[Path]) -> None:
    """Make a folder with its parents; adds those that were missing to ``made``, outermost first."""
    missing = [folder]
    while not missing[-1].exists() and missing[-1] != missing[-1].parent:
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        if not path.is_dir():
            path.mkdir()
            made.append(path)
