"""The atlas: where does depth help? One comparison for each problem, and one page for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from urllib.parse import quote

import polars as pl
from rich.console import Console

from overparam.data import DataError
from overparam.lab.comparison.atlas_table import (
    CAPTION,
    HEADER,
    atlas_table,
    picture,
    problem_lines,
    sentences,
)
from overparam.lab.comparison.engine import compare
from overparam.lab.comparison.names import folder_name
from overparam.lab.comparison.page import protocol_lines
from overparam.lab.comparison.plans import stored_budget
from overparam.lab.comparison.protocol import OutOfTimeError
from overparam.lab.comparison.result import BOUNDS, Result
from overparam.lab.executor import local_pool
from overparam.lab.problems.pieces import NORMS
from overparam.lab.report.page import Section, html_list, html_table, write_page
from overparam.lab.terminal import say


@dataclass(frozen=True)
class Cell:
    """A problem of the atlas.

    Attributes:
        problem: its name.
        steps: length of the runs of tuning; the confirmation takes half to twice as many.
        methods: names.
    """

    problem: str
    steps: int
    methods: tuple[str, ...]


_ALL = ("adamw", "momentum", "adamw+factors:2", "adamw+radial:4", "momentum+rule:2")
_NETWORK = (
    *("adamw", "momentum", "adamw+factors:2", "momentum+factors:2", "momentum+rule:2"),
    *("adamw+radial:2", "momentum+radial:2"),
)
_RADIAL = tuple(f"adamw+radial:{r}" for r in ("0", "0.5", "4"))
_PRODUCT = (
    *("adamw", "momentum", "adamw+factors:2", "adamw+factors:3", "momentum+factors:2"),
    *("momentum+factors:3", "momentum+rule:2", "momentum+rule:3"),
)
_TEXT = (
    *("adamw", "muon", "momentum", "adamw+factors:2", "muon+factors:2", "momentum+factors:2"),
    *("momentum+rule:2", "adamw+radial:2"),
)
_SPARSE = (*_PRODUCT, 'momentum(granularity="entry")+rule:2', "adamw+radial:4")
_KERNELS = (
    *("adamw", "momentum", "adamw+model:2", "adamw+sides:2", "adamw+kernels:2"),
    *("momentum+model:2", "momentum+sides:2", "momentum+kernels:2"),
)
_SCALES = (*_NETWORK, "adamw+rwf:0.5", "adamw+rwf:1", "momentum+rwf:1")
# Each takes about 75 s of a processor, so that all of them take six minutes of two cores.
QUICK = (
    *(Cell(f'mnist1d-mlp(norm="{norm}")', 100, _ALL) for norm in ("none", "batch", "layer")),
    Cell('tabular-mlp(data="diabetes")', 130, _ALL),
    Cell("cnn(channels=4, hidden=32)", 55, _ALL),
    Cell("char-transformer(layers=1, width=32, context=32, batch=8)", 50, _ALL),
    Cell("matrix-completion", 220, _ALL),
    Cell("sparse-regression", 300, _ALL),
)
# The most important first: what a command that is stopped early should have finished. Runs end
# before the loss is at round-off, where no comparison is left.
FULL = (
    *(Cell(f'mnist1d-mlp(norm="{norm}")', 500, (*_NETWORK, *_RADIAL)) for norm in NORMS),
    Cell("cnn", 300, _NETWORK),
    Cell("matrix-completion", 100, _PRODUCT),
    Cell("char-transformer", 200, _TEXT),
    Cell("matrix-sensing", 100, _PRODUCT),
    Cell("matrix-completion(share=0.25)", 100, _PRODUCT),
    Cell("matrix-sensing(share=0.25)", 100, _PRODUCT),
    Cell("allen-cahn-pinn", 500, _SCALES),
    Cell("cnn(kernel=5)", 300, _KERNELS),
    Cell("char-transformer(merged=True)", 200, _TEXT),
    *(Cell(f'mnist1d-mlp(norm="{norm}", depth=3)', 500, _NETWORK) for norm in NORMS),
    Cell('tabular-mlp(data="abalone")', 500, _NETWORK),
    Cell("advection-pinn", 500, _SCALES),
    Cell("sparse-regression", 300, _SPARSE),
    Cell('tabular-mlp(data="diabetes")', 500, _NETWORK),
    Cell('tabular-mlp(data="breast_cancer")', 500, _NETWORK),
    Cell('cnn(data="mnist")', 500, _NETWORK),
)


@dataclass(frozen=True)
class Atlas:
    """The results of all problems.

    Attributes:
        results: by name of the problem.
        missing: why a problem has none, by name.
    """

    results: Mapping[str, Result]
    missing: Mapping[str, str]

    @cached_property
    def table(self) -> pl.DataFrame:
        """Every cell, see :func:`overparam.lab.comparison.atlas_table.atlas_table`."""
        return atlas_table(self.results)

    @property
    def sentences(self) -> list[str]:
        """The answer, with its numbers."""
        if not self.results:
            return ["Where depth helps is not known yet: no problem is finished."]
        return sentences(self.table)


def make_atlas(
    cells: Sequence[Cell],
    folder: Path,
    *,
    seconds: float | None = None,
    seeds: int = 8,
    workers: int = 0,
    executor: Executor | None = None,
    together: int = 1,
    suspend: Callable[[], bool] = lambda: False,
    console: Console | None = None,
) -> Atlas:
    """Compare the methods of every cell; finished runs are read from the folder.

    The length of the runs is that of the cell, so a command may go on elsewhere. The radial step
    is among the methods, so no further controls are added.

    Args:
        cells: problems and methods, the most important first.
        folder: where every comparison is stored, in a folder of its own.
        seconds: for all of them together, in equal parts of what is left, so that runs may get
            shorter; by default they have their whole length.
        seeds: of the confirmation.
        workers: processes.
        executor: as for :func:`overparam.lab.comparison.compare`.
        together: cells at work at the same time; more than one needs processes.
        suspend: asked now and then; if it returns True, what is not finished is left for the same
            call to go on with.
        console: for progress.
    """
    results: dict[str, Result] = {}
    missing: dict[str, str] = {}
    stopped = threading.Event()
    end = None if seconds is None else time.monotonic() + seconds

    def budget_of(number: int, here: Path) -> float | None:
        """Equal parts of the time that is left; of a comparison that was begun, its own."""
        if end is None or (here / "plan.json").exists():
            return stored_budget(here)
        return max(1.0, end - time.monotonic()) / (len(cells) - number + 1)

    def one(number: int, cell: Cell) -> None:
        here = folder / folder_name(cell.problem)
        stopping = stopped.is_set() or suspend()
        if stopping and not (here / "plan.json").exists():
            missing[cell.problem] = "the same command goes on with it"
            return
        if console is not None:
            say(console, f"{number} of {len(cells)}: {cell.problem}")
        try:
            results[cell.problem] = compare(
                cell.problem,
                methods=cell.methods,
                steps=cell.steps,
                budget=budget_of(number, here),
                seeds=seeds,
                controls=False,
                directory=here,
                workers=workers,
                executor=pool,
                console=console if together == 1 else Console(quiet=True),
                suspend=lambda: stopped.is_set() or suspend(),
            )
        except (OutOfTimeError, DataError, ModuleNotFoundError) as error:
            missing[cell.problem] = str(error)

    with ExitStack() as stack:
        pool = executor or (stack.enter_context(local_pool(workers)) if workers else None)
        with ThreadPoolExecutor(together if pool else 1) as threads:
            futures = [threads.submit(one, *each) for each in enumerate(cells, start=1)]
            try:
                for future in futures:
                    future.result()
            finally:
                stopped.set()
    order = [cell.problem for cell in cells]
    return Atlas(
        {name: results[name] for name in order if name in results},
        {name: missing[name] for name in order if name in missing},
    )


def write_atlas(atlas: Atlas, path: Path) -> None:
    """Write the page: the answer, one picture, and a page for each problem beside it."""
    links = []
    for name, result in atlas.results.items():
        page = result.save(path.parent / folder_name(name) / "report.html")
        target = quote(page.relative_to(path.parent).as_posix())
        links.append(f"<a href='{target}'>{escape(name)}</a>: {escape(result.sentence)}")
    links += [escape(f"{name}: not run. {why}") for name, why in atlas.missing.items()]
    items = "".join(f"<li>{link}</li>" for link in links)
    first, *others = atlas.sentences
    sections = [Section("Problem by problem", f"<ul>{items}</ul>")]
    if atlas.results:
        cells = html_table(HEADER, problem_lines(atlas.table))
        sections = [
            Section("The picture", html_list(others), picture(atlas.table), CAPTION),
            *sections,
            Section("Every cell", cells + f"<p class='note'>{BOUNDS}</p>"),
            Section("The protocol", html_list(protocol_lines()) + _CUTS),
        ]
    write_page(path, title="Where does depth help?", answer=first, lead=_LEAD, sections=sections)


_CUTS = "<p class='note'>What was cut to keep a budget is said on the page of each problem.</p>"
_LEAD = (
    "Each row compares methods on one problem, all by one protocol: tuned alike, judged at the end "
    "of the schedule at equal loss, confirmed on fresh paired seeds. Every cell is shown, "
    "whichever way it went."
)
