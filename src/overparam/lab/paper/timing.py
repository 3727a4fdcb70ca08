"""Seconds per iteration of each method on this machine: the only numbers that vary per machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence

from overparam.data import RegressionData
from overparam.lab.methods import parse_method
from overparam.lab.study import DTYPES, Run, Study
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import PowerLoss

_WARM_UP, _STEPS, _ROUNDS = 5, 100, 5


def seconds_per_iteration(
    study: Study, data: RegressionData, methods: Sequence[str]
) -> dict[str, float]:
    """Median seconds of one step of one run; the methods take turns.

    Args:
        study: power, dtype and device.
        data: standardized data.
        methods: names of the methods to time.
    """
    # So long, and recorded so rarely, that no loss is computed while the clock runs.
    study = dataclasses.replace(study, iterations=10**6, points=1)
    dtype = DTYPES[study.dtype]
    objective = PowerLoss(data.features, data.targets, study.power, dtype, study.device)
    # At such a small learning rate nothing diverges while the clock runs.
    runs = {method: [Run(parse_method(method), 1e-9, 0)] for method in methods}
    times: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(_ROUNDS):
        for method, run in runs.items():
            sweep = Sweep(objective, study, run)
            sweep.advance(_WARM_UP)
            started = time.perf_counter()
            sweep.advance(_STEPS)
            sweep.weights().sum().item()  # wait for a device that works asynchronously
            times[method].append((time.perf_counter() - started) / _STEPS)
    return {method: statistics.median(values) for method, values in times.items()}
