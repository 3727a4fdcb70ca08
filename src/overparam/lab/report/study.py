"""The report of a study: a page, its figures as SVG, and all curves in one Parquet file."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import polars as pl
import vl_convert

from overparam._files import write_whole
from overparam.lab.charts.study import loss_chart, rate_chart
from overparam.lab.findings import findings, label
from overparam.lab.jobs import load_curves
from overparam.lab.report.page import Section, html_list, html_table, write_page
from overparam.lab.store import RunDirectory, write_table
from overparam.lab.study import Study, study_from_settings
from overparam.lab.summary import iterations_by_target, targets, tuned

_PACKAGES = ("overparam", "torch", "numpy", "polars", "altair")


@dataclass(frozen=True)
class Results:
    """What a report is made from.

    Attributes:
        curves: all curves.
        optimum: loss of the optimum.
        finished: whether every run was trained to its end.
    """

    curves: pl.DataFrame
    optimum: float
    finished: bool


def write_report(directory: RunDirectory) -> Results:
    """Write ``report.html``, ``figures/*.svg`` and ``curves.parquet`` from what is stored.

    Works on an unfinished run too, and says on the page that it is unfinished.

    Args:
        directory: the run.

    Returns:
        What the page shows, for the terminal.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: nothing has been trained yet, or the manifest is damaged.
    """
    manifest = directory.read_manifest()
    study = study_from_settings(manifest["study"], str(directory.manifest))
    curves = load_curves(study, directory)
    if curves.is_empty():
        raise ValueError(f"{directory.path} holds no curves yet; let the run go on for a while.")
    data, optimum = manifest["data"], manifest["optimum"]["loss"]
    write_table(directory.path / "curves.parquet", curves)
    charts = {"loss": loss_chart(curves, optimum), "rates": rate_chart(curves, optimum)}
    for name, chart in charts.items():
        svg = vl_convert.vegalite_to_svg(chart.to_dict())
        write_whole(directory.path / "figures" / f"{name}.svg", svg.encode("utf-8"))
    sections = [
        Section(
            "What it shows",
            _unfinished(manifest) + html_list(findings(curves, optimum, manifest["finished"])),
        ),
        Section(
            "Loss against iteration",
            chart=charts["loss"],
            caption="Each method at its best learning rate: the lowest median final loss among the "
            "rates at which no seed failed. With several seeds: line = median, band = smallest to "
            "largest. Both axes are logarithmic. Click the legend to single out a method, hover "
            "for values.",
        ),
        Section("Iterations to each loss", _target_table(curves, optimum)),
        Section(
            "The whole learning-rate curve",
            chart=charts["rates"],
            caption="Final loss of every rate that was tried, median over seeds. A cross below "
            "marks a rate at which some seed diverged or ended above its initial loss.",
        ),
        Section("Every method at its best rate", _tuned_table(curves, optimum)),
        Section("How far the optimum can be trusted", _certificate(manifest["optimum"], study)),
        Section("Settings", _settings(study, manifest)),
    ]
    write_page(
        directory.path / "report.html",
        title=f"Does depth accelerate training? The {study.data} data, p = {study.power:g}",
        lead=f"Linear regression with loss mean |error|^{study.power:g} on {data['rows']:,} rows "
        f"of {data['features']} features, full batch, {study.iterations:,} iterations. "
        f"{len(study.methods)} methods, each tuned over the same {len(study.rates)} learning "
        f"rates, {len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}.",
        sections=sections,
    )
    return Results(curves, optimum, manifest["finished"])


def package_versions() -> dict[str, str]:
    """Versions of what produces the numbers, for the record."""
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
        return "<p>No method came half of the way from its initial loss to the optimum.</p>"
    order = tuned(curves)["method"].to_list()
    found = iterations_by_target(curves, levels)
    best = {
        level: min((n for m in order if (n := found[m, level]) is not None), default=None)
        for level in levels
    }
    rows, classes = [], {}
    for i, method in enumerate(order):
        row = [label({"method": method})]
        for j, level in enumerate(levels, start=1):
            iterations = found[method, level]
            row.append("not reached" if iterations is None else f"{iterations:,.0f}")
            if iterations is None:
                classes[i, j] = "none"
            elif iterations == best[level]:
                classes[i, j] = "best"
        rows.append(row)
    header = ["Method", *(f"loss ≤ {level:g}" for level in levels)]
    return (
        "<p class='note'>For each loss, the method at the rate that gets there first (median over "
        "seeds). Losses are recorded at log-spaced iterations, so a figure may be late by one "
        "recording step.</p>" + html_table(header, rows, classes)
    )


def _tuned_table(curves: pl.DataFrame, optimum: float) -> str:
    rows = []
    for row in tuned(curves).to_dicts():
        spread = f"{row['low']:.4g} to {row['high']:.4g}" if row["seeds"] > 1 else "one seed"
        rows.append(
            [
                label(row),
                f"{row['median']:.4g}",
                f"{row['median'] - optimum:.3g}",
                spread,
                f"{row['rate']:.3g}" + (" (edge of the grid)" if row["edge"] else ""),
                f"{row['all_failed']} of {row['rates']}",
            ]
        )
    header = ["Method", "Final loss", "Above optimum", "Over seeds", "Best rate", "Rates that fail"]
    return html_table(header, rows)


def _certificate(optimum: dict[str, Any], study: Study) -> str:
    how = "least squares" if study.power == 2 else f"{optimum['iterations']} damped Newton steps"
    return (
        f"<p>Optimal loss {optimum['loss']:.10g}, by {how} in float64. Certificate: there the norm "
        f"of the gradient is {optimum['gradient_norm']:.2g}, against "
        f"{optimum['gradient_scale']:.3g} at zero weights. The loss is convex.</p>"
    )


def _settings(study: Study, manifest: dict[str, Any]) -> str:
    data = manifest["data"]
    versions = ", ".join(f"{name} {value}" for name, value in manifest["versions"].items())
    rates = study.rates
    rows = [
        ["Data", f"{data['title']}: {data['source']}"],
        ["Loaded from", data["origin"]],
        ["Data fingerprint", data["fingerprint"]],
        [
            "Learning rates",
            f"{len(rates)} from {rates[0]:g} to {rates[-1]:g}, "
            f"{study.rates_per_decade} per decade, the same for every method"
            + (f"; reached linearly in {study.warm_up:,} steps" if study.warm_up else ""),
        ],
        [
            "Initialization",
            f"every factor entry N(0, {study.init_std:g}²), hidden width "
            f"{study.width or 'min(outputs, features)'}; "
            "the rule starts at the product of such factors",
        ],
        ["Seeds", ", ".join(map(str, study.seeds))],
        ["Arithmetic", f"{study.dtype} on {study.device}"],
        ["Wall time", f"{manifest['wall_seconds']:.0f} s on {manifest['cpus']} cores"],
        ["Versions", versions],
        ["Study identity", manifest["identity"]],
    ]
    cells = "".join(
        f"<tr><td>{escape(name)}</td><td style='text-align:left;white-space:normal;"
        f"overflow-wrap:anywhere'>"
        f"{escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<div class='scroll'><table>{cells}</table></div>"


def _unfinished(manifest: dict[str, Any]) -> str:
    if manifest["finished"]:
        return ""
    return (
        "<p><strong>Unfinished:</strong> the run was interrupted; what follows is what was done. "
        "Run the same command again to complete it.</p>"
    )
