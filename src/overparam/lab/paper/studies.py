"""The studies that the experiments are made of, by name."""

from __future__ import annotations

from typing import Any

from overparam.lab.methods import parse_method
from overparam.lab.paper.scale import PAPER_RATES, Scale
from overparam.lab.study import Study

# The paper's learning rate is 1e-3. On L2 it gives the values of the authors' figure. On L4 every
# depth diverges at 1e-3, and 1e-4 gives their values (docs/reproduction.md).
FIXED_RATES = {"l2": 1e-3, "l4": 1e-4}
WIDE = 100
DEPTHS = ("gd", "factors:2", "factors:3", "rule:2", "rule:3")
ADAPTIVE = ("adagrad", "adadelta")
CONTROLS = ("momentum", "nesterov", "normalized", "loss_scaled", "adam")
MAP_POWERS = (2.0, 4.0, 6.0)
MAP_OPTIMIZERS = ("gd", "momentum", "adam")
MAP_RULE_DEPTHS = (1.5, 2, 3, 4)
MAP_FACTORS_DEPTHS = (2, 3, 4)
MECHANISM_OPTIMIZERS = ("gd", "momentum", "normalized", "adam")
# The parts of the rule, the rule, its family and explicit factors. Kinds that train as one batch
# are side by side.
MECHANISM_PARTS = (
    "norm:2", "norm:3", "rule:2", "rule:3", "rule:2,lam=0.3", "rule:2,lam=1", "rule:2,lam=3",
    "metric:2",
    "radial:0", "radial:0.5", "radial:2", "radial:4", "radial:8",
    "factors:2", "factors:3",
)  # fmt: skip
# The metric step is for optimizers that do not rescale what they are given.
_METRIC_OPTIMIZERS = ("gd", "momentum")
_WARM_UP_SHARE = 20

_RUNS_PER_JOB = 96


def _study(
    data: str, power: float, methods: tuple[str, ...], iterations: int, **others: object
) -> Study:
    """A study; least squares is cheap with Gram matrices, and its late progress is slow."""
    dtype = "float64" if power == 2 else "float32"
    settings: dict[str, Any] = {"dtype": dtype, **others}
    return Study(data=data, power=power, methods=methods, iterations=iterations, **settings)


def regression_studies(scale: Scale, data: str, features: int, device: str) -> dict[str, Study]:
    """The studies on one data set that rerun an experiment of the paper or add a control to it.

    The settings are the paper's: standardized data, no bias, every factor entry N(0, 0.01^2),
    hidden width 1 (100 in one experiment), loss mean |error|^p.

    Args:
        scale: horizons and grids.
        data: name of the data set, Ethanol in the paper.
        features: number of features, which is the hidden width of the full identity.
        device: where to train.

    Returns:
        The studies by name.
    """

    def study(power: float, methods: tuple[str, ...], iterations: int, **others: object) -> Study:
        per_decade = scale.l2_rates_per_decade if power == 2 else scale.rates_per_decade
        common: dict[str, object] = {
            "lowest_rate": scale.lowest_rate,
            "highest_rate": scale.highest_rate,
            "rates_per_decade": per_decade,
            "more_rates": PAPER_RATES,
            "width": 1,
            "seeds": scale.seeds,
            "device": device,
            "runs_per_job": _RUNS_PER_JOB,
        }
        return _study(data, power, methods, iterations, **(common | others))

    studies = {}
    deep = ("factors:4", "factors:8")
    for name, power in (("l2", 2.0), ("l4", 4.0)):
        rate, wide = FIXED_RATES[name], ("factors:2", "factors:3")
        one_rate = {"lowest_rate": rate, "highest_rate": rate, "more_rates": ()}
        studies[f"{name}-fixed"] = study(power, DEPTHS, scale.fixed, **one_rate)
        studies[f"{name}-fixed-wide"] = study(power, wide, scale.fixed, width=WIDE, **one_rate)
        studies[f"{name}-tuned"] = study(power, DEPTHS, scale.tuned)
        studies[f"{name}-adaptive"] = study(power, ADAPTIVE, scale.tuned)
        # For least squares, the step scaled by the loss is gradient descent.
        controls = tuple(name for name in CONTROLS if power > 2 or name != "loss_scaled")
        studies[f"{name}-controls"] = study(power, controls, scale.tuned)
    studies["l4-adam"] = study(4.0, ("adam", "adam+factors:2", "adam+factors:3"), scale.adam)
    studies["l4-near-zero"] = study(4.0, ("gd", *deep), scale.deep)
    studies["l4-residual"] = study(4.0, deep, scale.deep, init="residual")
    if scale.full_identity:
        # Expensive (eight square factors per run), so only at the paper's own learning rates.
        paper_rates = {"lowest_rate": 1e-5, "highest_rate": 1e-5, "more_rates": PAPER_RATES}
        studies["l4-identity"] = study(
            4.0, deep, scale.deep, init="identity", width=features, **paper_rates
        )
    return studies


def _grid_of_the_map(scale: Scale, power: float, device: str) -> dict[str, object]:
    """The steeper the loss, the smaller the largest stable learning rate."""
    return {
        "lowest_rate": scale.map_lowest_rate * 10.0 ** (2 - power / 2),
        "highest_rate": scale.map_highest_rate,
        "seeds": scale.seeds,
        "device": device,
        "runs_per_job": 4 * _RUNS_PER_JOB,
    }


def map_studies(scale: Scale, device: str) -> dict[str, Study]:
    """The studies of the map by name: optimizers with every depth, for several data and powers."""
    methods = []
    for optimizer in MAP_OPTIMIZERS:
        methods.append(optimizer)
        methods += [f"{optimizer}+rule:{depth}" for depth in MAP_RULE_DEPTHS]
        methods += [f"{optimizer}+factors:{depth}" for depth in MAP_FACTORS_DEPTHS]
    return {
        f"map-{data}-p{power:g}": _study(
            data,
            power,
            tuple(methods),
            scale.map_iterations,
            rates_per_decade=scale.map_rates_per_decade,
            **_grid_of_the_map(scale, power, device),
        )
        for data in scale.map_data
        for power in MAP_POWERS
    }


def mechanism_methods() -> tuple[str, ...]:
    """The methods of the experiment on what in depth it is that helps."""
    return tuple(
        name
        for optimizer in MECHANISM_OPTIMIZERS
        for name in (
            optimizer,
            *(
                parse_method(f"{optimizer}+{part}").name
                for part in MECHANISM_PARTS
                if optimizer in _METRIC_OPTIMIZERS or not part.startswith("metric")
            ),
        )
    )


def mechanism_study(
    data: str, power: float, schedule: str, iterations: int, **others: object
) -> Study:
    """One study of that experiment.

    Args:
        data: name of the data set.
        power: exponent of the loss.
        schedule: constant, or cosine, which has a warm-up over a twentieth of the iterations.
        iterations: of every run.
        others: settings of the study.
    """
    return _study(
        data,
        power,
        mechanism_methods(),
        iterations,
        schedule=schedule,
        warm_up=iterations // _WARM_UP_SHARE if schedule != "constant" else 0,
        **others,
    )


def mechanism_studies(scale: Scale, device: str) -> dict[str, Study]:
    """The studies of that experiment by name, on the grid of the map."""
    return {
        f"mechanism-{data}-p{power:g}-{schedule}": mechanism_study(
            data,
            power,
            schedule,
            scale.mechanism_iterations,
            rates_per_decade=scale.mechanism_rates_per_decade,
            **_grid_of_the_map(scale, power, device),
        )
        for data in scale.mechanism_data
        for power in scale.mechanism_powers
        for schedule in scale.mechanism_schedules
    }
