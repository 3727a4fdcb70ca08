"""Sentences computed from the curves. No sentence says more than its numbers."""

from __future__ import annotations

import math

import polars as pl

from overparam.lab.methods import Method, parse_method
from overparam.lab.summary import final_losses, tuned


def findings(curves: pl.DataFrame, optimum: float, finished: bool = True) -> list[str]:
    """What the study shows, one plain sentence each.

    Compares the tuned methods by their median final loss: every depth against gradient descent,
    the plain-weight optimizers against the best depth, the rule against explicit factors of the
    same depth. No order is claimed where the ranges over seeds overlap, nor between losses that
    are equal to three digits. Of an unfinished study nothing is compared: its runs have trained
    for different times or at different rates.
    """
    if not finished or _unequal(curves):
        return [
            "Unfinished: not every method has all its runs and iterations yet, so nothing is "
            f"compared. The optimum of the loss is {optimum:.4g}."
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
        if method.engine == "plain" and method.optimizer != "gd"
    ]
    sentences = [
        f"After {iterations:,} iterations, each method at the best of its learning rates; the "
        f"optimum of the loss is {optimum:.4g}."
    ]
    if depths and "gd" in table:
        sentences.append(_depths_against_gd(depths, table["gd"]))
    if depths and plain:
        sentences.append(_plain_against_depth(plain, depths[0]))
    for name, method in methods.items():
        rule = Method("gd", "rule", method.depth).name
        if method.engine == "factors" and method.optimizer == "gd" and rule in table:
            sentences.append(_rule_against_factors(table[rule], table[name]))
    seeds = max((row["seeds"] for row in table.values()), default=0)
    if seeds == 1:
        sentences.append(
            "One seed: there is no interval, and small differences mean nothing. "
            "More seeds: overparam run --seeds 0 1 2."
        )
    edges = [
        label(row) for row in table.values() if row["edge"] and row["all_failed"] < row["rates"]
    ]
    if edges:
        sentences.append(
            f"The best rate lies at the edge of the grid for {_join(edges)}: a wider grid may "
            "do better."
        )
    return sentences


def label(row: dict[str, object]) -> str:
    """The readable name of a row's method."""
    return parse_method(str(row["method"])).label


def _unequal(curves: pl.DataFrame) -> bool:
    """Whether runs that did not diverge ended at different steps, or methods lack runs."""
    ends = final_losses(curves)
    steps = ends.filter(pl.col("diverged_at").is_null())["step"]
    counts = ends.group_by("method").len()["len"]
    return steps.n_unique() > 1 or counts.n_unique() > 1


def _depths_against_gd(depths: list[dict], gd: dict) -> str:
    sides = _sides(depths, gd)
    if sides["lower"]:
        claim = "Depth helps gradient descent here"
    elif sides["overlapping"]:
        claim = "It is not established that depth helps gradient descent here"
    else:
        claim = "Depth does not help gradient descent here"
    return f"{claim}. {_listed(sides, f'plain gradient descent ({_value(gd)})')}"


def _plain_against_depth(plain: list[dict], depth: dict) -> str:
    return (
        f"On the plain weight: {_listed(_sides(plain, depth), f'the best depth, {_ending(depth)}')}"
    )


def _rule_against_factors(rule: dict, factors: dict) -> str:
    return (
        f"Depth {parse_method(rule['method']).depth:g}: the end-to-end rule {_end(rule)}, "
        f"the product of explicit factors {_end(factors)}."
    )


def _sides(rows: list[dict], reference: dict) -> dict[str, list[dict]]:
    """Rows by how their final losses lie against the reference."""
    sides: dict[str, list[dict]] = {"lower": [], "equal": [], "overlapping": [], "higher": []}
    for row in rows:
        if _value(row) == _value(reference):
            side = "equal"
        elif _overlap(row, reference):
            side = "overlapping"
        else:
            side = "lower" if row["median"] < reference["median"] else "higher"
        sides[side].append(row)
    return sides


def _listed(sides: dict[str, list[dict]], reference: str) -> str:
    """One clause for each side, the first of them naming the reference."""
    verbs = {
        "lower": ("ends lower than", "end lower than"),
        "equal": ("ends, to three digits, at the loss of", "end, to three digits, at the loss of"),
        "overlapping": ("overlaps over seeds with", "overlap over seeds with"),
        "higher": ("ends higher than", "end higher than"),
    }
    clauses = [
        f"{_join([_ending(row) for row in rows])} {verbs[side][len(rows) > 1]} "
        for side, rows in sides.items()
        if rows
    ]
    return (
        "; ".join(clause + (reference if i == 0 else "it") for i, clause in enumerate(clauses))
        + "."
    )


def _overlap(first: dict, second: dict) -> bool:
    """Whether the ranges over seeds overlap; one seed has no range."""
    apart = first["high"] < second["low"] or second["high"] < first["low"]
    return not apart and min(first["seeds"], second["seeds"]) > 1


def _end(row: dict) -> str:
    if row["median"] == math.inf:
        return "has no finite median loss at any rate"
    return f"ends at {row['median']:.3g}"


def _ending(row: dict) -> str:
    return f"{label(row)} ({_value(row)})"


def _value(row: dict) -> str:
    return "diverged" if row["median"] == math.inf else f"{row['median']:.3g}"


def _join(words: list[str]) -> str:
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"
