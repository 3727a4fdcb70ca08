"""Sentences computed from the curves. No sentence says more than its numbers."""

from __future__ import annotations

import polars as pl

from overparam.lab.method import parse_method
from overparam.lab.summary import tuned


def findings(curves: pl.DataFrame, optimum: float) -> list[str]:
    """What the study shows, one plain sentence each.

    Compares the tuned methods by their median final loss: gradient descent against every depth,
    the plain-weight optimizers against the best depth, the rule against explicit factors of the
    same depth. Where the ranges over seeds overlap, the sentence says so.
    """
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
        sentences.append(_depth_against_gd(depths[0], table["gd"]))
    if depths and plain:
        sentences.extend(_plain_against_depth(plain, depths[0]))
    for name, method in methods.items():
        rule = f"rule:{method.depth:g}"
        if method.engine == "factors" and method.optimizer == "gd" and rule in table:
            sentences.append(_rule_against_factors(table[rule], table[name]))
    seeds = max((row["seeds"] for row in table.values()), default=0)
    if seeds == 1:
        sentences.append(
            "One seed: there is no interval, and small differences mean nothing. "
            "More seeds: overparam run --seeds 0 1 2."
        )
    edges = [label(row) for row in table.values() if row["edge"]]
    if edges:
        sentences.append(
            f"The best rate lies at the edge of the grid for {_join(edges)}: a wider grid may "
            "do better."
        )
    return sentences


def label(row: dict[str, object]) -> str:
    """The readable name of a row's method."""
    return parse_method(str(row["method"])).label


def _depth_against_gd(depth: dict, gd: dict) -> str:
    verb = "helps" if depth["median"] < gd["median"] else "does not help"
    return (
        f"Depth {verb} gradient descent here: the best depth, {label(depth)}, ends at "
        f"{depth['median']:.3g}, plain gradient descent at {gd['median']:.3g}."
        f"{_overlap(depth, gd)}"
    )


def _plain_against_depth(plain: list[dict], depth: dict) -> list[str]:
    lower = [row for row in plain if row["median"] < depth["median"]]
    higher = [row for row in plain if row["median"] >= depth["median"]]
    sentences = []
    if lower:
        ends = "ends" if len(lower) == 1 else "end"
        unclear = [label(row) for row in lower if _overlap(row, depth)]
        note = f" The ranges over seeds overlap for {_join(unclear)}." if unclear else ""
        sentences.append(
            f"On the plain weight, {_join([_ending(row) for row in lower])} {ends} lower than "
            f"every depth of gradient descent.{note}"
        )
    if higher:
        ends = "does" if len(higher) == 1 else "do"
        sentences.append(
            f"On the plain weight, {_join([_ending(row) for row in higher])} {ends} not reach the "
            f"loss of {label(depth)}."
        )
    return sentences


def _rule_against_factors(rule: dict, factors: dict) -> str:
    return (
        f"Depth {parse_method(rule['method']).depth:g}: the end-to-end rule ends at "
        f"{rule['median']:.3g}, explicit factors at {factors['median']:.3g}."
    )


def _overlap(first: dict, second: dict) -> str:
    apart = first["high"] < second["low"] or second["high"] < first["low"]
    if apart or min(first["seeds"], second["seeds"]) == 1:
        return ""
    return " The ranges over seeds overlap, so the difference is not established."


def _ending(row: dict) -> str:
    return f"{label(row)} ({row['median']:.3g})"


def _join(words: list[str]) -> str:
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"
