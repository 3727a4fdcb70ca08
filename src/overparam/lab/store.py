"""One directory per study; every file appears whole or not at all."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from overparam._files import write_whole
from overparam.lab.spelling import command_line
from overparam.lab.study import Work

# Only files that this class writes: finished jobs, checkpoints, leftovers of a killed writer.
_OWN_FILE = re.compile(r"\.?\d{4,}\.(parquet|checkpoint)(\.\w+\.part)?")

_MANIFEST_KEYS = (
    "study",
    "identity",
    "data",
    "optimum",
    "finished",
    "wall_seconds",
    "cpus",
    "versions",
)


@dataclass(frozen=True)
class StudyDirectory:
    """The files of one study: settings, one Parquet file per finished job, checkpoints, report.

    A new file is written under a temporary name, flushed to the disk and renamed. So a reader sees
    either the old or the new file, even if the writer is killed.

    Attributes:
        path: the directory; created at the first write.
    """

    path: Path

    @property
    def manifest(self) -> Path:
        """Settings, identity, versions and wall time, as JSON."""
        return self.path / "run.json"

    def curves_file(self, work: Work) -> Path:
        """The curves of a finished job."""
        return self.path / "jobs" / f"{work.number:04d}.parquet"

    def checkpoint_file(self, work: Work) -> Path:
        """The state of an unfinished job."""
        return self.path / "jobs" / f"{work.number:04d}.checkpoint"

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Store the manifest."""
        write_whole(self.manifest, json.dumps(content, indent=2, sort_keys=True).encode())

    def read_manifest(self) -> dict[str, Any]:
        """Load the manifest.

        Raises:
            FileNotFoundError: there is no study here.
            ValueError: the manifest is damaged.
        """
        if not self.manifest.exists():
            raise FileNotFoundError(
                f"{self.path} holds no study; start one with: "
                + command_line("run", output=self.path.parent, name=self.path.name)
            )
        try:
            content = json.loads(self.manifest.read_text(encoding="utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.manifest} is damaged ({error}); delete it.") from None
        if not isinstance(content, dict):
            raise ValueError(f"{self.manifest} is damaged (not a JSON object); delete it.")
        missing = [key for key in _MANIFEST_KEYS if key not in content]
        if missing:
            raise ValueError(
                f"{self.manifest} lacks {', '.join(missing)}: it was written by another version of "
                f"overparam. Delete {self.path} or choose another name."
            )
        return content

    def clear_curves(self) -> None:
        """Delete curves and checkpoints to make room for another study."""
        for path in (self.path / "jobs").iterdir() if (self.path / "jobs").is_dir() else ():
            if _OWN_FILE.fullmatch(path.name):
                path.unlink()


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Store a table as Parquet; the same table gives the same bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", statistics=False)
    write_whole(path, buffer.getvalue())


def read_table(path: Path) -> pl.DataFrame:
    """Load a table of curves.

    Raises:
        ValueError: the file is damaged.
    """
    # As bytes, because polars reads a path with [, * or ? as a pattern, and ~ and s3: as places.
    try:
        return pl.read_parquet(io.BytesIO(path.read_bytes()))
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and run the study again: only the curves in "
            "this file are trained again."
        ) from None


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Store the state of an unfinished job."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_whole(path, buffer.getvalue())


def read_state(path: Path, keys: set[str]) -> dict[str, Any] | None:
    """Load the state of an unfinished job; None if there is none with these keys.

    A damaged file counts as none, so the job starts again from the beginning.
    """
    if not path.exists():
        return None
    try:
        # On the CPU, so that a report can be written on a machine without the device.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # reading damaged bytes can fail in any way
        return None
    return state if isinstance(state, dict) and keys <= state.keys() else None
