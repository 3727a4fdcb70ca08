"""The atlas: where does depth help? One comparison for each problem, and one page for all."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import polars as pl
from rich.console import Console

from overparam.data import DataError
from overparam.lab.charts.study import styled
from overparam.lab.comparison.engine import compare
from overparam.lab.comparison.methods import parse_method
from overparam.lab.comparison.names import folder_name
from overparam.lab.comparison.protocol import OutOfTimeError
from overparam.lab.comparison.result import Result, interval
from overparam.lab.local_workers import local_pool
from overparam.lab.problems.pieces import NORMS
from overparam.lab.report.page import Section, html_list, html_table, write_page
from overparam.lab.terminal import say
from overparam.lab.verdicts import verdict_of


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
QUICK = (
    *(Cell(f'mnist1d-mlp(norm="{norm}")', 120, _ALL) for norm in ("none", "batch", "layer")),
    Cell('tabular-mlp(data="diabetes")', 150, _ALL),
    Cell("cnn(channels=4, hidden=32)", 80, _ALL),
    Cell("char-transformer(layers=1, width=32, context=32, batch=8)", 50, _ALL),
    Cell("matrix-completion", 250, _ALL),
    Cell("sparse-regression", 300, _ALL),
)
# The most important first: what a command that is stopped early should have finished.
FULL = (
    *(Cell(f'mnist1d-mlp(norm="{norm}")', 500, (*_NETWORK, *_RADIAL)) for norm in NORMS),
    Cell("cnn", 300, _NETWORK),
    Cell("matrix-completion", 1000, _PRODUCT),
    Cell("char-transformer", 200, _TEXT),
    Cell("matrix-completion(share=0.25)", 1000, _PRODUCT),
    *(Cell(f'mnist1d-mlp(norm="{norm}", depth=3)', 500, _NETWORK) for norm in NORMS),
    Cell('tabular-mlp(data="abalone")', 500, _NETWORK),
    Cell("advection-pinn", 500, _NETWORK),
    Cell("sparse-regression", 1000, _SPARSE),
    Cell('tabular-mlp(data="diabetes")', 500, _NETWORK),
    Cell('tabular-mlp(data="breast_cancer")', 500, _NETWORK),
    Cell('cnn(data="mnist")', 500, _NETWORK),
)
_DECIDED = {"faster": True, "slower": False, "not faster": False, "too early": None}


@dataclass(frozen=True)
class Atlas:
    """The results of all problems.

    Attributes:
        results: by name of the problem.
        missing: why a problem has none, by name.
    """

    results: Mapping[str, Result]
    missing: Mapping[str, str]

    @property
    def sentences(self) -> list[str]:
        """The answer: one sentence for all methods together, then one for each."""
        cells = self.cells()
        lines = [_sentence("Depth", [decision for _, _, decision in cells])]
        for method in dict.fromkeys(method for _, method, _ in cells):
            found = [decision for _, other, decision in cells if other == method]
            lines.append(_sentence(method, found))
        return lines

    def cells(self) -> list[tuple[str, str, str]]:
        """Problem, method with depth, and decision."""
        return [
            (name, method, result.findings.speed_ups[method].decision)
            for name, result in self.results.items()
            for method in sorted(result.deep)
        ]


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
        seconds: for all of them together, in equal parts, so that the runs may get shorter; by
            default they have their whole length.
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

    def one(number: int, cell: Cell) -> None:
        here = folder / folder_name(cell.problem)
        stopping = stopped.is_set() or suspend()
        if stopping and not (here / "plan.json").exists():
            missing[cell.problem] = "The same command goes on with it."
            return
        if console is not None:
            say(console, f"{number} of {len(cells)}: {cell.problem}")
        try:
            results[cell.problem] = compare(
                cell.problem,
                methods=cell.methods,
                steps=cell.steps,
                budget=None if seconds is None else seconds / len(cells),
                seeds=seeds,
                controls=False,
                directory=here,
                workers=workers,
                executor=pool,
                console=console if together == 1 else Console(quiet=True),
                suspend=lambda: stopped.is_set() or suspend(),
            )
        except OutOfTimeError:
            missing[cell.problem] = "Begun; the same command goes on with it."
        except DataError as error:
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
    rows, links = [], []
    for name, result in atlas.results.items():
        result.save(path.parent / folder_name(name) / "report.html")
        links.append(f"{name}: {result.sentence}")
        for method in result.ranked:
            found = result.findings.speed_ups[method]
            rows.append([name, method, interval(found), found.decision])
    links += [f"{name}: not run. {why}" for name, why in atlas.missing.items()]
    first, *others = atlas.sentences
    write_page(
        path,
        title=first,
        lead="Where does depth help? Each row compares methods on one problem, by the protocol of "
        "overparam compare: tuned alike, judged at the end of the schedule at equal loss, "
        "confirmed on fresh paired seeds. Every cell is shown, whichever way it went.",
        sections=[
            Section("The picture", html_list(others), _map(atlas), _CAPTION),
            Section("Problem by problem", html_list(links)),
            Section(
                "Every cell",
                html_table(["problem", "method", "speed-up in steps", "verdict"], rows),
            ),
        ],
    )


_CAPTION = (
    "Speed-up in steps over the best method without depth: blue is faster, orange slower. Grey "
    "text: too early to say."
)


def _map(atlas: Atlas) -> alt.TopLevelMixin:
    rows = [
        (name, method, math.log2(found.median), f"{found.median:.2f}", found.decision)
        for name, result in atlas.results.items()
        for method, found in result.findings.speed_ups.items()
        if not parse_method(method).is_baseline
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    names = ("problem", "method", "log", "text", "decision")
    table = pl.DataFrame(dict(zip(names, columns, strict=True)))
    base = alt.Chart(table).encode(
        x=alt.X("method:N", title=None, axis=alt.Axis(labelAngle=-30)),
        y=alt.Y("problem:N", title=None, sort=list(atlas.results), axis=alt.Axis(labelLimit=260)),
        tooltip=["problem:N", "method:N", "text:N", "decision:N"],
    )
    scale = alt.Scale(domain=[-1, 0, 1], range=["#d55e00", "#f4f4f4", "#0072b2"])
    tiles = base.mark_rect(stroke="white").encode(
        color=alt.Color("log:Q", scale=scale, legend=None)
    )
    grey = alt.condition("datum.decision == 'too early'", alt.value("#8a8a8a"), alt.value("black"))
    text = base.mark_text(fontSize=12).encode(text="text:N", color=grey)
    chart = alt.layer(tiles, text).properties(width=330, height=30 * max(1, len(atlas.results)))
    return styled(chart, "Speed-up of each method with depth on each problem.")


def _sentence(what: str, decisions: Sequence[str]) -> str:
    """One sentence with its numbers.

    Example:
        >>> _sentence("Depth", ["faster", "slower", "slower", "too early"])
        'Depth is faster in 1 of 4 cases, slower in 2, not faster in 0, undecided in 1: mostly no.'
    """
    count = decisions.count
    verdict = verdict_of(_DECIDED[decision] for decision in decisions)
    return (
        f"{what} is faster in {count('faster')} of {len(decisions)} cases, slower in "
        f"{count('slower')}, not faster in {count('not faster')}, undecided in "
        f"{count('too early')}: "
        f"{verdict}."
    )
