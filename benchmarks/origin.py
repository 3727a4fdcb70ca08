"""Where stored results come from: columns that every file of results/ has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import polars as pl

ROOT = Path(__file__).parents[1]


def recorded(command: str) -> list[pl.Expr]:
    """The command of the runs, and the commit of the tree that stores them."""
    head = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True)
    return [pl.lit(command).alias("command"), pl.lit(done.stdout.strip()).alias("commit")]
