"""The atlas: where does depth help? One comparison for each problem, and one page for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import polars as pl
from rich.console import Console

from overparam.data import DataError
from overparam.lab.charts.theme import INK, SOFT, speed_colour, styled
from overparam.lab.comparison.engine import compare
from overparam.lab.comparison.methods import parse_method
from overparam.lab.comparison.names import folder_name
from overparam.lab.comparison.result import Result, interval
from overparam.lab.problems.pieces import NORMS
from overparam.lab.report.page import Section, html_list, html_table, write_page
from overparam.lab.terminal import say
from overparam.lab.verdicts import verdict_of

METHODS = ("adamw", "momentum", "adamw+factors:2", "adamw+radial:4", "momentum+rule:2")
QUICK = (
    "mnist1d-mlp",
    'mnist1d-mlp(norm="batch")',
    'mnist1d-mlp(norm="layer")',
    'tabular-mlp(data="diabetes")',
    "cnn(channels=4, hidden=32)",
    "char-transformer(layers=1, width=32, context=32, batch=8)",
    "matrix-completion",
    "sparse-regression",
)
FULL = (
    *(f'mnist1d-mlp(norm="{norm}", depth={depth})' for norm in NORMS for depth in (2, 3)),
    *(f'tabular-mlp(data="{name}")' for name in ("abalone", "diabetes", "breast_cancer")),
    "cnn",
    'cnn(data="mnist")',
    "char-transformer",
    "matrix-completion",
    "matrix-completion(share=0.25)",
    "advection-pinn",
    "sparse-regression",
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
    problems: Sequence[str],
    seconds: float,
    folder: Path,
    *,
    methods: Sequence[str] = METHODS,
    seeds: int = 5,
    workers: int = 0,
    executor: Executor | None = None,
    console: Console | None = None,
) -> Atlas:
    """Compare the methods on every problem; finished comparisons are read from the folder.

    Args:
        problems: names.
        seconds: for all of them together.
        folder: where every comparison is stored, in a folder of its own.
        methods: names; the radial step is among them, so no further controls are added.
        seeds: of the confirmation.
        workers: processes.
        executor: as for :func:`overparam.lab.comparison.compare`.
        console: for progress.
    """
    results, missing = {}, {}
    for number, name in enumerate(problems, start=1):
        if console is not None:
            say(console, f"{number} of {len(problems)}: {name}")
        try:
            results[name] = compare(
                name,
                methods=methods,
                budget=seconds / len(problems),
                seeds=seeds,
                controls=False,
                directory=folder / folder_name(name),
                workers=workers,
                executor=executor,
                console=console,
            )
        except DataError as error:
            missing[name] = str(error)
    return Atlas(results, missing)


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
        title="Where does depth help?",
        answer=first,
        lead="Each row compares methods on one problem, by the protocol of "
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
        (name, method, found.median, f"{found.median:.2f}", found.decision)
        for name, result in atlas.results.items()
        for method, found in result.findings.speed_ups.items()
        if not parse_method(method).is_baseline
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    names = ("problem", "method", "speed_up", "text", "decision")
    table = pl.DataFrame(dict(zip(names, columns, strict=True)))
    base = alt.Chart(table).encode(
        x=alt.X("method:N", title=None, axis=alt.Axis(labelAngle=-30)),
        y=alt.Y("problem:N", title=None, sort=list(atlas.results), axis=alt.Axis(labelLimit=260)),
        tooltip=["problem:N", "method:N", "text:N", "decision:N"],
    )
    tiles = base.mark_rect(stroke="transparent").encode(color=speed_colour("speed_up"))
    grey = alt.condition("datum.decision == 'too early'", alt.value(SOFT), alt.value(INK))
    text = base.mark_text(fontSize=12).encode(text="text:N", color=grey)
    chart = alt.layer(tiles, text).properties(width=330, height=30 * max(1, len(atlas.results)))
    return styled(chart, "Speed-up of each method with depth on each problem.", room=230)


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
