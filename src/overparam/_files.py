"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
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

    A missing folder is not made, for a later refusal has to leave nothing behind, and one that is
    made and removed again would go away under another process that writes there. The folders that
    are missing are tried under a name of their own.

    Args:
        folder: where files will be written.
        subfolders: folders in it that will be written too.

    Raises:
        OSError: a folder cannot be made, or a file in it cannot be written.
    """
    for path in (folder, *(folder / name for name in subfolders)):
        nearest = _nearest_folder(path)
        try:
            with tempfile.TemporaryDirectory(suffix=".part", prefix=".", dir=nearest) as made:
                probe = Path(made) / path.relative_to(nearest)
                probe.mkdir(parents=True, exist_ok=True)
                (probe / "file").touch()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


def _nearest_folder(path: Path) -> Path:
    """The path itself or the nearest above it that exists; an error if that is no folder."""
    if path.is_dir():
        return path
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return _nearest_folder(path.parent)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
