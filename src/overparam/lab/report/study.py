"""The report of a study: a page, its figures as SVG, and all curves in one Parquet file."""

from __future__ import annotations

import platform
from collections.abc import Sized
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import polars as pl

from overparam._files import write_whole
from overparam.lab.charts.study import loss_chart, rate_chart
from overparam.lab.conclusions import conclusions
from overparam.lab.jobs import load_curves
from overparam.lab.methods import label_of
from overparam.lab.report.page import Section, html_list, html_table, write_page
from overparam.lab.store import StudyDirectory, write_table
from overparam.lab.study import Study, study_from_settings
from overparam.lab.summary import iterations_by_target, targets, tuned

_PACKAGES = ("overparam", "torch", "numpy", "polars", "altair")


@dataclass(frozen=True)
class Results:
    """What a report is made from.

    Attributes:
        curves: all curves.
        optimum: the optimal loss.
        finished: whether every run has been trained to its end.
    """

    curves: pl.DataFrame
    optimum: float
    finished: bool


def write_report(directory: StudyDirectory) -> Results:
    """Write ``report.html``, ``figures/*.svg`` and ``curves.parquet`` from what is stored.

    An unfinished study gets a report too, which says that the study is unfinished.

    Args:
        directory: where the study is stored.

    Returns:
        What the page shows, for the terminal.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: nothing has been trained yet, or the manifest is damaged.
    """
    manifest = directory.read_manifest()
    study = study_from_settings(manifest["study"], str(directory.manifest))
    curves = load_curves(study, directory)
    if curves.is_empty():
        raise ValueError(f"{directory.path} holds no curves yet; let it train for a while.")
    data, optimum = manifest["data"], manifest["optimum"]["loss"]
    write_table(directory.path / "curves.parquet", curves)
    loss = Section(
        "Loss against iteration",
        chart=loss_chart(curves, optimum),
        caption="Each method at its best learning rate: the one with the lowest median final "
        "loss among those at which no seed failed. With several seeds, the line is the median "
        "and the band goes from the smallest to the largest. Both axes are logarithmic. Click "
        "a line to single it out, hover for values, or unfold the numbers below.",
    )
    rates = Section(
        "Every learning rate",
        chart=rate_chart(curves, optimum),
        caption="Final loss at every learning rate that was tried, median over seeds. A cross "
        "below marks a learning rate at which some seed diverged or ended above its initial "
        "loss.",
    )
    for name, section in (("loss", loss), ("rates", rates)):
        write_whole(directory.path / "figures" / f"{name}.svg", section.svg)
    found, *others = conclusions(curves, optimum, manifest["finished"])
    sections = [
        Section("What it shows", _unfinished(manifest) + html_list(others)),
        loss,
        Section("Iterations to each loss", _target_table(curves, optimum)),
        rates,
        Section("Every method at its best learning rate", _tuned_table(curves, optimum)),
        Section("How accurate the optimum is", _certificate(manifest["optimum"], study)),
        Section("Settings", _settings(study, manifest)),
    ]
    write_page(
        directory.path / "report.html",
        title="Does depth accelerate training? "
        # Data of the user's own have a name beside the one that identifies them.
        f"The {data.get('name', study.data)} data, p = {study.power:g}",
        answer=found,
        lead=f"Linear regression with loss mean |error|^{study.power:g} on {data['rows']:,} rows "
        f"of {data['features']} features, full batch, {study.iterations:,} iterations. "
        f"{_count(study.methods, 'method')}, tuned over the same "
        f"{_count(study.rates, 'learning rate')}, {_count(study.seeds, 'seed')}.",
        sections=sections,
    )
    return Results(curves, optimum, manifest["finished"])


def package_versions() -> dict[str, str]:
    """Versions of the packages that produce the numbers."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _target_table(curves: pl.DataFrame, optimum: float) -> str:
    levels = targets(curves, optimum)
    if not levels:
        return "<p>No method got halfway from its initial loss to the optimum.</p>"
    order = tuned(curves)["method"].to_list()
    found = iterations_by_target(curves, levels)
    rows, classes = [[label_of(method)] for method in order], {}
    for j, level in enumerate(levels, start=1):
        reached = [found[method, level] for method in order]
        best = min((n for n in reached if n is not None), default=None)
        for i, iterations in enumerate(reached):
            rows[i].append("not reached" if iterations is None else f"{iterations:,.0f}")
            if iterations in (None, best):
                classes[i, j] = "none" if iterations is None else "best"
    header = ["Method", *(f"loss ≤ {level:g}" for level in levels)]
    return (
        "<p class='note'>For each loss, every method at the learning rate that gets there first "
        "(median over seeds). Losses are recorded at log-spaced iterations, so a number may be too "
        "large by one recording step.</p>" + html_table(header, rows, classes)
    )


def _tuned_table(curves: pl.DataFrame, optimum: float) -> str:
    rows = []
    for row in tuned(curves).to_dicts():
        spread = f"{row['low']:.4g} to {row['high']:.4g}" if row["seeds"] > 1 else "one seed"
        cells = {
            "Method": label_of(row["method"]),
            "Final loss": f"{row['median']:.4g}",
            "Above optimum": f"{row['median'] - optimum:.3g}",
            "Range over seeds": spread,
            "Best lr": f"{row['rate']:.3g}" + " (edge of the grid)" * row["edge"],
            "lrs that fail": f"{row['all_failed']} of {row['rates']}",
        }
        rows.append(cells)
    return html_table(list(rows[0]), [list(cells.values()) for cells in rows])


def _certificate(optimum: dict[str, Any], study: Study) -> str:
    how = "least squares" if study.power == 2 else f"{optimum['iterations']} damped Newton steps"
    return (
        f"<p>The optimal loss is {optimum['loss']:.10g}, found by {how} in float64. There the norm "
        f"of the gradient is {optimum['gradient_norm']:.2g}, compared with "
        f"{optimum['gradient_scale']:.3g} at zero weights. The loss is convex, so a gradient of "
        "zero would prove the optimum.</p>"
    )


def _settings(study: Study, manifest: dict[str, Any]) -> str:
    data = manifest["data"]
    rates = study.rates
    rows = {
        "Data": f"{data['title']}: {data['source']}",
        "Loaded from": data["origin"],
        "Data fingerprint": data["fingerprint"],
        "Learning rates": f"{len(rates)} from {rates[0]:g} to {rates[-1]:g}, "
        f"{study.rates_per_decade} per decade, the same for every method"
        + (f"; linear warm-up over {study.warm_up:,} steps" if study.warm_up else "")
        + ("; then a cosine down to 0" if study.schedule == "cosine" else ""),
        "Initialization": f"every factor entry N(0, {study.init_std:g}²), hidden width "
        f"{study.width or 'min(outputs, features)'}; "
        "the rule starts at the product of these factors",
        "Seeds": ", ".join(map(str, study.seeds)),
        "Arithmetic": f"{study.dtype} on {study.device}",
        "Wall time": f"{manifest['wall_seconds']:.0f} s on {manifest['cpus']} cores",
        "Versions": ", ".join(f"{name} {value}" for name, value in manifest["versions"].items()),
        "Study identity": manifest["identity"],
    }
    cells = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table class='facts'>{cells}</table>"


def _unfinished(manifest: dict[str, Any]) -> str:
    if manifest["finished"]:
        return ""
    return (
        "<p><strong>Unfinished:</strong> training was interrupted; this page shows the curves so "
        "far. Run the same command again to complete the study.</p>"
    )


def _count(items: Sized, noun: str) -> str:
    return f"{len(items)} {noun}{'s' if len(items) > 1 else ''}"
