"""One directory per run of a study; every file appears whole or not at all."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch

from overparam._files import write_whole
from overparam.lab.study import Shard

# Files of this class alone: finished shards, checkpoints, and what a killed writer left.
_SHARD_FILE = re.compile(r"\.?\d{4,}\.(parquet|checkpoint)(\.\w+\.part)?")

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


class RunDirectory:
    """The files of one study: settings, one Parquet per finished shard, checkpoints, report.

    A file is written beside its place, flushed to the disk and moved over: a reader sees the old
    or the new one, whatever kills the writer.

    Args:
        path: the directory; created on the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def manifest(self) -> Path:
        """Settings, identity, versions and wall time, as JSON."""
        return self.path / "run.json"

    def shard_file(self, shard: Shard) -> Path:
        """The curves of a finished shard."""
        return self.path / "shards" / f"{shard.number:04d}.parquet"

    def checkpoint_file(self, shard: Shard) -> Path:
        """The state of an unfinished shard."""
        return self.path / "shards" / f"{shard.number:04d}.checkpoint"

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Store the manifest."""
        write_whole(self.manifest, json.dumps(content, indent=2, sort_keys=True).encode())

    def read_manifest(self) -> dict[str, Any]:
        """Load the manifest.

        Raises:
            FileNotFoundError: there is no run here.
            ValueError: the manifest is damaged.
        """
        if not self.manifest.exists():
            raise FileNotFoundError(
                f"{self.path} holds no run; start one with: overparam run --name {self.path.name}"
            )
        try:
            content = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.manifest} is damaged ({error}); delete it.") from None
        if not isinstance(content, dict):
            raise ValueError(f"{self.manifest} is damaged (no JSON object); delete it.")
        missing = [key for key in _MANIFEST_KEYS if key not in content]
        if missing:
            raise ValueError(
                f"{self.manifest} lacks {', '.join(missing)}: another version of overparam wrote "
                f"it. Delete {self.path} or choose another name."
            )
        return content

    def clear_shards(self) -> None:
        """Delete the curves and checkpoints, to make room for another study."""
        for path in (self.path / "shards").iterdir() if (self.path / "shards").is_dir() else ():
            if _SHARD_FILE.fullmatch(path.name):
                path.unlink()

    def write_checkpoint(self, shard: Shard, state: Mapping[str, Any]) -> None:
        """Store the state of an unfinished shard."""
        write_state(self.checkpoint_file(shard), state)

    def read_checkpoint(self, shard: Shard) -> dict[str, Any] | None:
        """The state of an unfinished shard, or None where it has none that can be read."""
        return read_state(self.checkpoint_file(shard), {"identity", "sweep"})

    def read_shard(self, shard: Shard) -> pl.DataFrame:
        """The curves of a finished shard.

        Raises:
            ValueError: the file is damaged.
        """
        return read_table(self.shard_file(shard))


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Store a table as Parquet: the same table gives the same bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", statistics=False)
    write_whole(path, buffer.getvalue())


def read_table(path: Path) -> pl.DataFrame:
    """A table of curves that was stored.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and run the study again: only these "
            "curves are trained once more."
        ) from None


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Store the state of unfinished work."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_whole(path, buffer.getvalue())


def read_state(path: Path, parts: set[str]) -> dict[str, Any] | None:
    """The state of unfinished work, or None where there is none with these parts to be read.

    A damaged file costs time and nothing else: the work starts again.
    """
    if not path.exists():
        return None
    try:
        # Whoever goes on with it moves it to a device; a report is written without one.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # reading damaged bytes may fail in any way
        return None
    return state if isinstance(state, dict) and parts <= state.keys() else None
