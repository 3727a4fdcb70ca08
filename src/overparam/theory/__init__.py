"""The paper's theory as executable checks: one result, one file.

The functions take your own weights, losses and models; every module's ``check`` runs the paper's
result on problems of its own. ``docs/equations.md`` lists each with its equation and its test.

Example:
    >>> import torch
    >>> from overparam import theory
    >>> field = theory.end_to_end_field(theory.loss_gradient(lambda w: w.cos().sum()), depth=3)
    >>> _, part = theory.antisymmetric_jacobian(field, torch.tensor([1.0, 2.0, 3.0]).double())
    >>> bool(part.norm() > 0.01)  # no regularizer gives what depth 3 does to this loss
    True
"""

from overparam.theory.acceleration_bound import (
    acceleration_bound,
    jump_rate,
    measured_acceleration,
    run_of_depth_two,
    window_of_jump,
)
from overparam.theory.asymmetry import antisymmetric_jacobian
from overparam.theory.balance_along_descent import balance_gaps, balance_gaps_after_step
from overparam.theory.check import Measurement, TheoryCheck
from overparam.theory.descent import descend_end_to_end, descend_factors
from overparam.theory.emulation import emulation_error, rescaled_factors, rotated_factors
from overparam.theory.losses import fit_to, loss_gradient, power_loss_gradient
from overparam.theory.memory import (
    ScalarRun,
    adaptive_rates,
    memory_weights,
    run_with_scalar,
    shrink_rates,
    weights_from_gradients,
)
from overparam.theory.no_regularizer import (
    circulation,
    circulation_constant_gradient,
    closed_curve,
    end_to_end_field,
)
from overparam.theory.preconditioner import preconditioner_matrix, single_output_parts
from overparam.theory.singular_values import singular_value_velocity, velocity_error
from overparam.theory.tuning import best_of_depths, starts, steady_counts, tuned_iterations
from overparam.theory.two_points import (
    Lanes,
    curvature,
    divergence_threshold,
    iterations_to_target,
    late_rate,
    measured_threshold,
    power_gradient,
)

__all__ = [
    "Lanes",
    "Measurement",
    "ScalarRun",
    "TheoryCheck",
    "acceleration_bound",
    "adaptive_rates",
    "antisymmetric_jacobian",
    "balance_gaps",
    "balance_gaps_after_step",
    "best_of_depths",
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
    "iterations_to_target",
    "jump_rate",
    "late_rate",
    "loss_gradient",
    "measured_acceleration",
    "measured_threshold",
    "memory_weights",
    "power_gradient",
    "power_loss_gradient",
    "preconditioner_matrix",
    "rescaled_factors",
    "rotated_factors",
    "run_of_depth_two",
    "run_with_scalar",
    "shrink_rates",
    "single_output_parts",
    "singular_value_velocity",
    "starts",
    "steady_counts",
    "tuned_iterations",
    "velocity_error",
    "weights_from_gradients",
    "window_of_jump",
]
