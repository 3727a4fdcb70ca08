"""The second-order baseline: Newton and BFGS on the same loss, by iterations and by seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from overparam._files import write_whole
from overparam.data import RegressionData
from overparam.lab.paper.timing import seconds_per_iteration
from overparam.lab.prepare import PreparedStudy
from overparam.lab.store import read_table, write_table
from overparam.lab.training.objective import PowerLoss
from overparam.lab.training.optimum import find_optimum

NEWTON, BFGS = "Newton", "BFGS"
_BFGS_ITERATIONS = 2000
# Raised whenever timing changes, so that old seconds are not shown.
_CLOCK = "clock 2"


def load_or_compute_baseline(
    path: Path, studies: Sequence[PreparedStudy]
) -> tuple[pl.DataFrame, dict[str, float]]:
    """The curves of the baseline and the seconds of all methods, from the disk if they are there.

    Otherwise both are computed and stored.

    Args:
        path: path of the ``.parquet`` and ``.json`` files, without the suffix.
        studies: studies on one loss, whose methods are timed too.

    Returns:
        The curves from :func:`second_order_curves`, and seconds per iteration by method.
    """
    curves_file, seconds_file = path.with_suffix(".parquet"), path.with_suffix(".json")
    identities = [_CLOCK, *(study.identity for study in studies)]
    if curves_file.exists() and seconds_file.exists():
        stored = json.loads(seconds_file.read_text(encoding="utf-8"))
        if stored["identities"] == identities:
            return read_table(curves_file), stored["seconds"]
    study, data = studies[0].study, studies[0].data
    curves, seconds = second_order_curves(data, study.power)
    methods = [name for prepared in studies for name in prepared.study.methods]
    seconds |= seconds_per_iteration(study, data, methods)
    write_table(curves_file, curves)
    stored = {"identities": identities, "seconds": seconds}
    write_whole(seconds_file, json.dumps(stored, indent=2, sort_keys=True).encode())
    return curves, seconds


def second_order_curves(
    data: RegressionData, power: float
) -> tuple[pl.DataFrame, dict[str, float]]:
    """Losses of Newton's method and of BFGS after every iteration.

    Newton is :func:`~overparam.lab.training.optimum.find_optimum`: each step is a least-squares
    problem, and it starts at the least-squares solution. BFGS is SciPy's, in float64, with its own
    line search, and starts at zero. With several outputs Newton is left out, because it solves
    them one after another.

    Args:
        data: standardized data.
        power: ``p >= 2`` of the loss mean |error|^p.

    Returns:
        A table ``method, step, loss``, and the seconds per iteration of each method.
    """
    objective = PowerLoss(data.features, data.targets, power)
    shape = (objective.outputs, objective.inputs)
    rows: list[tuple[str, int, float]] = []
    seconds: dict[str, float] = {}
    methods: dict[str, Callable[[Callable[[Tensor], None]], object]] = {
        BFGS: lambda add: _bfgs(objective, add)
    }
    if objective.outputs == 1:
        methods[NEWTON] = lambda add: find_optimum(data.features, data.targets, power, add)
    for method, minimize in methods.items():
        weights = [torch.zeros(shape, dtype=torch.float64)]
        started = time.perf_counter()
        minimize(weights.append)
        seconds[method] = (time.perf_counter() - started) / max(1, len(weights) - 1)
        losses = objective.loss(torch.stack([weight.reshape(shape) for weight in weights]))
        rows += [(method, step, loss) for step, loss in enumerate(losses.tolist())]
    schema = {"method": pl.String, "step": pl.Int64, "loss": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row"), seconds


def _bfgs(objective: PowerLoss, add: Callable[[Tensor], None]) -> None:
    import scipy.optimize  # here, because it would slow down every command by a third of a second

    shape = (1, objective.outputs, objective.inputs)

    def value_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = torch.from_numpy(flat).reshape(shape)
        return float(objective.loss(weight)), objective.gradient(weight).flatten().numpy().copy()

    scipy.optimize.minimize(
        value_and_slope,
        np.zeros(objective.outputs * objective.inputs),
        jac=True,
        method="BFGS",
        callback=lambda flat: add(torch.from_numpy(np.array(flat))),
        options={"maxiter": _BFGS_ITERATIONS, "gtol": 1e-12},
    )
