"""Sentences computed from the curves. No sentence claims more than its numbers show."""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl

from overparam.lab.methods import Method, label_of, parse_method
from overparam.lab.summary import final_losses, iterations_to, targets, tuned


def conclusions(curves: pl.DataFrame, optimum: float, finished: bool = True) -> list[str]:
    """What a study shows, in plain sentences; the first one is the answer.

    The tuned methods are compared by their median final loss: every depth with gradient descent,
    the plain-weight optimizers with the best depth, the rule with explicit factors of the same
    depth. Methods whose final loss is the optimum, to three digits, are compared by their
    iterations to the lowest loss of the table. Two methods are not ordered if their ranges over
    seeds overlap or if their numbers are equal to three digits. In an unfinished study nothing is
    compared, because its runs have trained for different times or at different learning rates.
    """
    if not finished or _lacks_runs(curves):
        return [
            "Unfinished: some methods still lack runs or iterations, so nothing is compared. The "
            f"optimal loss is {optimum:.4g}."
        ]
    table = {row["method"]: row for row in tuned(curves).to_dicts()}
    iterations = int(curves["step"].max() or 0)  # pyright: ignore[reportArgumentType]
    methods = {name: parse_method(name) for name in table}
    depths = [
        table[name]
        for name, method in methods.items()
        if method.optimizer == "gd" and method.depth > 1
    ]
    plain = [
        table[name]
        for name, method in methods.items()
        if method.depth_kind == "plain" and method.optimizer != "gd"
    ]
    sentences = []
    arrivals = _arrivals(curves, optimum, table)
    if depths and "gd" in table:
        found, text = _against(depths, table["gd"], "plain gradient descent", arrivals)
        sentences.append(f"{_CLAIMS[found]} gradient descent here. {text}")
    if depths and plain:
        best = min(
            depths, key=lambda row: arrivals.get(row["method"], {"median": math.inf})["median"]
        )
        text = _against(plain, best, f"the best depth, {label_of(best['method'])}", arrivals)[1]
        sentences.append(f"On the plain weight: {text}")
    sentences.insert(
        1,
        f"All losses are after {iterations:,} iterations, each method at its best learning rate; "
        f"the optimal loss is {optimum:.4g}."
        + (" Iterations to a loss are at the learning rate that is best for it." * bool(arrivals)),
    )
    for name, method in methods.items():
        rule = Method("gd", "rule", method.depth).name
        if method.depth_kind == "factors" and method.optimizer == "gd" and rule in table:
            sentences.append(
                f"Depth {method.depth:g}: the end-to-end rule {_end(table[rule])}, the product of "
                f"explicit factors {_end(table[name])}."
            )
    seeds = max((row["seeds"] for row in table.values()), default=0)
    if seeds == 1:
        sentences.append(
            "There is only one seed, so there is no range over seeds and small differences mean "
            "nothing. For more, add --seeds 0 1 2 and another --name to the command."
        )
    edges = [
        label_of(row["method"])
        for row in table.values()
        if row["edge"] and row["all_failed"] < row["rates"]
    ]
    if edges:
        sentences.append(
            f"The best learning rate is at the edge of the grid for {_join(edges)}: a wider grid "
            "may do better."
        )
    return sentences


def _lacks_runs(curves: pl.DataFrame) -> bool:
    """Whether runs that did not diverge ended at different steps, or methods lack runs."""
    ends = final_losses(curves)
    steps = ends.filter(pl.col("diverged_at").is_null())["step"]
    counts = ends.group_by("method").len()["len"]
    return steps.n_unique() > 1 or counts.n_unique() > 1


def _arrivals(curves: pl.DataFrame, optimum: float, table: Mapping[str, dict]) -> dict[str, dict]:
    """Iterations to the lowest tabled loss, by method, of those that end at the optimum."""
    lowest = targets(curves, optimum)[-1:]
    return {
        row["method"]: {**row, "seeds": table[row["method"]]["seeds"]}
        for row in iterations_to(curves, lowest).rename({"iterations": "median"}).to_dicts()
        if row["median"] is not None and _value(table[row["method"]]) == f"{optimum:.3g}"
    }


def _against(
    rows: list[dict], reference: dict, name: str, arrivals: Mapping[str, dict]
) -> tuple[str, str]:
    """The best side of a reference that one of the rows is on, and how all of them compare.

    Rows that arrive at the optimum, as the reference does, are compared by their iterations.
    """
    own = arrivals.get(reference["method"])
    arrived = [arrivals[row["method"]] for row in rows if own and row["method"] in arrivals]
    others = [row for row in rows if not (own and row["method"] in arrivals)]
    found, text = [], []
    if own and arrived:
        found.append(_sides(arrived, own))
        text.append(_compared(found[-1], f"{name} ({_value(own)})", _sooner(own["target"])))
        text.append("These all end at the optimum, to three digits.")
    if others:
        found.append(_sides(others, reference))
        text.append(_compared(found[-1], f"{name} ({_value(reference)})", _LOWER))
    return next(side for side in _LOWER if any(s[side] for s in found)), " ".join(text)


def _sides(rows: list[dict], reference: dict) -> dict[str, list[dict]]:
    """The rows, sorted by how their final losses, or iterations, compare with the reference."""
    sides: dict[str, list[dict]] = {side: [] for side in _LOWER}
    for row in rows:
        if _value(row) == _value(reference):
            side = "equal"
        elif _overlap(row, reference):
            side = "overlapping"
        else:
            side = "lower" if row["median"] < reference["median"] else "higher"
        sides[side].append(row)
    return sides


def _compared(
    sides: dict[str, list[dict]], reference: str, verbs: Mapping[str, tuple[str, str]]
) -> str:
    """One clause per side; the first one names the reference."""
    clauses = [
        f"{_join([_labelled_value(row) for row in rows])} {verbs[side][len(rows) > 1]} "
        for side, rows in sides.items()
        if rows
    ]
    return f"{clauses[0]}{reference}{''.join(f'; {clause}it' for clause in clauses[1:])}."


# The best side first.
_LOWER = {
    "lower": ("ends lower than", "end lower than"),
    "overlapping": ("overlaps over seeds with", "overlap over seeds with"),
    "equal": ("ends, to three digits, equal to", "end, to three digits, equal to"),
    "higher": ("ends higher than", "end higher than"),
}
_CLAIMS = {
    "lower": "Depth helps",
    "overlapping": "It is not established that depth helps",
    "equal": "Depth does not help",
    "higher": "Depth does not help",
}


def _sooner(target: float) -> dict[str, tuple[str, str]]:
    there = f"to a loss of {target:g}"
    return _LOWER | {
        "lower": (f"gets {there} sooner than", f"get {there} sooner than"),
        "equal": (f"gets {there} as soon as", f"get {there} as soon as"),
        "higher": (f"gets {there} later than", f"get {there} later than"),
    }


def _overlap(first: dict, second: dict) -> bool:
    """Whether the ranges over seeds overlap; one seed has no range."""
    apart = first["high"] < second["low"] or second["high"] < first["low"]
    return not apart and min(first["seeds"], second["seeds"]) > 1


def _end(row: dict) -> str:
    if row["median"] == math.inf:
        return "has no finite median loss at any learning rate"
    return f"ends at {row['median']:.3g}"


def _labelled_value(row: dict) -> str:
    return f"{label_of(row['method'])} ({_value(row)})"


def _value(row: dict) -> str:
    if "target" in row:
        return f"{row['median']:,.0f} iterations"
    return "diverged" if row["median"] == math.inf else f"{row['median']:.3g}"


def _join(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
