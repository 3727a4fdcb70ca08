"""The paper's theory as pure functions: one result, one file.

The functions take your own weights, losses and models. ``docs/equations.md`` lists each with its
equation and its test. The experiments that check the results, and their charts, are in
``overparam.lab.theory``; the command ``overparam theory`` runs them.

Example:
    >>> import torch
    >>> from overparam import theory
    >>> field = theory.end_to_end_field(theory.loss_gradient(lambda w: w.cos().sum()), depth=3)
    >>> _, part = theory.antisymmetric_jacobian(field, torch.tensor([1.0, 2.0, 3.0]).double())
    >>> bool(part.norm() > 0.01)  # no regularizer changes this loss as depth 3 does
    True
"""

import importlib
import warnings
from typing import Any

from overparam.theory.acceleration_bound import acceleration_bound, jump_lr
from overparam.theory.asymmetry import antisymmetric_jacobian
from overparam.theory.balance_along_descent import balance_gaps, balance_gaps_after_step
from overparam.theory.descent import descend_end_to_end, descend_factors
from overparam.theory.emulation import emulation_error, rescaled_factors, rotated_factors
from overparam.theory.field import end_to_end_field
from overparam.theory.late_phase import LatePhase, predict_speedup
from overparam.theory.losses import fit_to, loss_gradient
from overparam.theory.memory import memory_weights, weights_from_gradients
from overparam.theory.no_regularizer import circulation, circulation_constant_gradient, closed_curve
from overparam.theory.power_loss import power_gradient, power_loss, power_loss_gradient
from overparam.theory.preconditioner import preconditioner_matrix, single_output_parts
from overparam.theory.scalar_run import ScalarRun, adaptive_lr, run_with_scalar, shrink_rates
from overparam.theory.singular_values import singular_value_velocity, velocity_error
from overparam.theory.two_points import curvature, divergence_threshold

__all__ = [
    "LatePhase",
    "ScalarRun",
    "acceleration_bound",
    "adaptive_lr",
    "antisymmetric_jacobian",
    "balance_gaps",
    "balance_gaps_after_step",
    "circulation",
    "circulation_constant_gradient",
    "closed_curve",
    "curvature",
    "descend_end_to_end",
    "descend_factors",
    "divergence_threshold",
    "emulation_error",
    "end_to_end_field",
    "fit_to",
    "jump_lr",
    "loss_gradient",
    "memory_weights",
    "power_gradient",
    "power_loss",
    "power_loss_gradient",
    "preconditioner_matrix",
    "predict_speedup",
    "rescaled_factors",
    "rotated_factors",
    "run_with_scalar",
    "shrink_rates",
    "single_output_parts",
    "singular_value_velocity",
    "velocity_error",
    "weights_from_gradients",
]

# Names that this package exported once: where each is now.
_MOVED = {
    "Lanes": "overparam.lab.theory.two_point_runs.Lanes",
    "Measurement": "overparam.lab.theory.check.Evidence",
    "TheoryCheck": "overparam.lab.theory.check.TheoryCheck",
    "adaptive_rates": "overparam.theory.scalar_run.adaptive_lr",
    "best_of_depths": "overparam.lab.theory.tuning.best_of_depths",
    "iterations_to_target": "overparam.lab.theory.two_point_runs.iterations_to_target",
    "jump_rate": "overparam.theory.acceleration_bound.jump_lr",
    "late_rate": "overparam.lab.theory.two_point_runs.late_rate",
    "measured_acceleration": "overparam.lab.theory.jump_runs.measured_acceleration",
    "measured_threshold": "overparam.lab.theory.two_point_runs.measured_threshold",
    "run_of_depth_two": "overparam.lab.theory.jump_runs.run_of_depth_two",
    "starts": "overparam.lab.theory.tuning.starts",
    "steady_counts": "overparam.lab.theory.tuning.steady_counts",
    "tuned_iterations": "overparam.lab.theory.tuning.tuned_iterations",
    "window_of_jump": "overparam.lab.theory.jump_runs.window_of_jump",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, new = _MOVED[name].rpartition(".")
    warnings.warn(
        f"overparam.theory.{name} has moved: from {module} import {new}",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(importlib.import_module(module), new)
