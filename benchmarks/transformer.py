"""Does depth help a character transformer? Six layers of 384 on tinyshakespeare, for a GPU.

    python benchmarks/transformer.py --device cuda --seconds 330 --folder runs/transformer
    python benchmarks/transformer.py --folder runs/transformer --show

One seed, 500 steps with warm-up and linear decay, batches of 64 passages of 256 characters, no
dropout; the loss at the end is the mean over the last twenty steps, and the validation loss that of
twenty batches. Every method has a small grid of learning rates: first the middle one of all
methods, then the others, then what is asked beside. Each finished run is a file, and the same
command goes on behind them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor

from overparam._files import write_whole
from overparam.data.tinyshakespeare import tinyshakespeare
from overparam.lab.comparison.methods import parse_method
from overparam.lab.comparison.plans import machine
from overparam.lab.comparison.trial import schedule
from overparam.lab.problems.char_transformer import (
    NOT_HIDDEN,
    CharTransformer,
    next_character_loss,
)

LAST, JUDGED, EVERY = 20, 20, 10
_GRIDS = {
    "adamw": (1e-3, 3e-3, 3e-4), "adamw+factors:2": (1e-3, 3e-3, 3e-4),
    "muon": (1e-3, 3e-3, 3e-4), "muon+factors:2": (1e-3, 3e-3, 3e-4),
    "momentum": (0.1, 0.3, 0.03), "momentum+factors:2": (0.1, 0.3, 0.03),
    "momentum+rule:2": (0.1, 0.3, 0.03),
}  # fmt: skip
_BESIDE = {"sgd": (0.3, 1.0), "sgd+factors:2": (0.3, 1.0), "adamw+radial:2": (1e-3,)}


class Run(NamedTuple):
    """A training; ``clip`` bounds the norm of the gradient, 0 does not."""

    method: str
    lr: float
    clip: float = 0.0


def runs() -> list[Run]:
    """All of them, the most important first."""
    middle = [Run(method, grid[0]) for method, grid in _GRIDS.items()]
    others = [Run(method, grid[i]) for i in (1, 2) for method, grid in _GRIDS.items()]
    clipped = [Run("momentum+rule:2", lr, 1.0) for lr in (0.1, 0.3)]
    wider = [Run(method, 1e-2) for method in ("adamw", "adamw+factors:2", "muon", "muon+factors:2")]
    beside = [Run(method, lr) for method, grid in _BESIDE.items() for lr in grid]
    return middle + others + clipped + beside + wider


class Sizes(NamedTuple):
    """What is trained, and how long."""

    layers: int = 6
    width: int = 384
    heads: int = 6
    context: int = 256
    batch: int = 64
    steps: int = 500


def train(run: Run, sizes: Sizes, device: str, end: float) -> dict | None:
    """The losses of a run, or None if its time ended."""
    text, held_out, characters = (each.to(device) if isinstance(each, Tensor) else each
                                  for each in tinyshakespeare())  # fmt: skip
    torch.manual_seed(0)
    model = CharTransformer(len(characters), *sizes[:4]).to(device)
    optimizer = parse_method(run.method).make(model, run.lr, NOT_HIDDEN)
    lrs = [group["lr"] for group in optimizer.param_groups]
    batches = passages(text, sizes, 0)
    losses: list[Tensor] = []
    begin = time.perf_counter()
    for step in range(sizes.steps):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr * schedule(step, sizes.steps)
        optimizer.zero_grad()
        loss = next_character_loss(model, next(batches))
        loss.backward()
        if run.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        optimizer.step()
        losses.append(loss.detach())
        if (step + 1) % EVERY == 0:
            if not math.isfinite(float(losses[-1])):
                break
            if time.monotonic() > end:
                return None
    seconds = (time.perf_counter() - begin) / len(losses)
    curve = torch.stack(losses).tolist()
    diverged = not all(math.isfinite(loss) for loss in curve)
    model.eval()
    batches = passages(held_out, sizes, 1)
    with torch.no_grad():
        valid = fmean(float(next_character_loss(model, next(batches))) for _ in range(JUDGED))
    return {
        **run._asdict(), **sizes._asdict(), "seconds_per_step": seconds,
        "training_loss": math.inf if diverged else fmean(curve[-LAST:]),
        "validation_loss": math.inf if diverged or not math.isfinite(valid) else valid,
        "curve": curve[::EVERY], "machine": machine_name(device),
    }  # fmt: skip


def passages(text: Tensor, sizes: Sizes, seed: int) -> Iterator[Tensor]:
    """Batches of passages, ``(batch, context + 1)``, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.arange(sizes.context + 1, device=text.device)
    while True:
        starts = torch.randint(len(text) - sizes.context, (sizes.batch, 1), generator=generator)
        yield text[starts.to(text.device) + places]


def machine_name(device: str) -> str:
    """Where it was run."""
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    return gpu + machine()


def file_of(folder: Path, run: Run, sizes: Sizes) -> Path:
    """Where a run is stored."""
    text = json.dumps([run, sizes])
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def table(folder: Path) -> pl.DataFrame:
    """One row for each run that is stored."""
    rows = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    order = {run: number for number, run in enumerate(runs())}
    rows.sort(key=lambda row: order.get(Run(row["method"], row["lr"], row["clip"]), len(order)))
    return pl.DataFrame(rows, infer_schema_length=None)


def best(stored: pl.DataFrame) -> str:
    """The best learning rate of each method, as a table in Markdown."""
    lines = ["| method | rates tried | best | training loss | validation loss | ms a step |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for (method, clip), rows in stored.group_by("method", "clip", maintain_order=True):
        name = f"{method}, clipped" if clip else method
        rates = ", ".join(f"{lr:g}" for lr in rows["lr"].sort())
        first = rows.sort("training_loss").row(0, named=True)
        edge = " (edge)" if first["lr"] in (rows["lr"].min(), rows["lr"].max()) else ""
        shown = [f"{first[loss]:.3f}" for loss in ("training_loss", "validation_loss")]
        speed = f"{1000 * first['seconds_per_step']:.1f}"
        lines.append(
            f"| {name} | {rates} | {first['lr']:g}{edge} | {' | '.join(shown)} | {speed} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--folder", type=Path, default=Path("runs/transformer"))
    parser.add_argument("--output", type=Path, help="Parquet file with all runs")
    parser.add_argument("--show", action="store_true", help="train nothing")
    for name, value in Sizes()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    end = time.monotonic() + (0 if options.show else options.seconds)
    sizes = Sizes(*(getattr(options, name) for name in Sizes._fields))
    torch.set_float32_matmul_precision("high")
    options.folder.mkdir(parents=True, exist_ok=True)
    for run in runs():
        file = file_of(options.folder, run, sizes)
        if file.exists() or time.monotonic() > end:
            continue
        try:
            found = train(run, sizes, options.device, end)
        except Exception as error:  # one method must not end the others
            print(f"{run}: {type(error).__name__}: {error}", flush=True)
            continue
        if found is None:
            break
        write_whole(file, json.dumps(found).encode())
        print(
            f"{run.method} at {run.lr:g}{' clipped' if run.clip else ''}: "
            f"{found['training_loss']:.3f}, {1000 * found['seconds_per_step']:.1f} ms a step",
            flush=True,
        )
    stored = table(options.folder)
    if options.output is not None and len(stored):
        stored.write_parquet(options.output, compression="zstd")
    print(best(stored) if len(stored) else "Nothing is stored yet.")


if __name__ == "__main__":
    main()
