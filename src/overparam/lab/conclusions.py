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
        side, clauses = _compared(arrived, own, name, _sooner(own["target"]))
        found.append(side)
        text += [clauses, "These all end at the optimum, to three digits."]
    if others:
        side, clauses = _compared(others, reference, name, _LOWER)
        found.append(side)
        text.append(clauses)
    return min(found, key=list(_LOWER).index), " ".join(text)


def _compared(
    rows: list[dict], reference: dict, name: str, verbs: Mapping[str, tuple[str, str]]
) -> tuple[str, str]:
    """The best side that a row is on, and one clause per side; the first names the reference."""
    sides: dict[str, list[str]] = {}
    for row in rows:
        shown = f"{label_of(row['method'])} ({_value(row)})"
        sides.setdefault(_side(row, reference), []).append(shown)
    clauses = [
        f"{_join(shown)} {verbs[side][len(shown) > 1]} "
        for side in verbs
        if (shown := sides.get(side))
    ]
    text = f"{clauses[0]}{name} ({_value(reference)})"
    text += "".join(f"; {clause}it" for clause in clauses[1:])
    return next(side for side in verbs if side in sides), f"{text}."


def _side(row: dict, reference: dict) -> str:
    """How a final loss, or iterations, compare with the reference; one seed has no range."""
    if _value(row) == _value(reference):
        return "equal"
    apart = row["high"] < reference["low"] or reference["high"] < row["low"]
    if not apart and min(row["seeds"], reference["seeds"]) > 1:
        return "overlapping"
    return "lower" if row["median"] < reference["median"] else "higher"


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


def _end(row: dict) -> str:
    if row["median"] == math.inf:
        return "has no finite median loss at any learning rate"
    return f"ends at {row['median']:.3g}"


def _value(row: dict) -> str:
    if "target" in row:
        return f"{row['median']:,.0f} iterations"
    return "diverged" if row["median"] == math.inf else f"{row['median']:.3g}"


def _join(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
