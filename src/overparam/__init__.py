"""Implicit acceleration by overparameterization: train a weight as if it were a product."""

from overparam.factors.balance import (
    balanced_factors,
    balanced_initialization,
    identity_initialization,
    near_zero_initialization,
)
from overparam.factors.product import factor_product, factor_product_vjp
from overparam.imbalance import imbalance
from overparam.layers import register_view, select_parameters
from overparam.optim import EndToEnd, Factored, Radial
from overparam.reparam import (
    AveragedWeights,
    collapse,
    collapse_state_dict,
    collapsed,
    expand_state_dict,
    overparameterize,
    plan_overparameterization,
)
from overparam.rule.reference import (
    PreconditionerSpectrum,
    end_to_end_update,
    preconditioner_spectrum,
    single_output_update,
)

__version__ = "0.2.0"

__all__ = [
    "AveragedWeights",
    "EndToEnd",
    "Factored",
    "PreconditionerSpectrum",
    "Radial",
    "balanced_factors",
    "balanced_initialization",
    "collapse",
    "collapse_state_dict",
    "collapsed",
    "end_to_end_update",
    "expand_state_dict",
    "factor_product",
    "factor_product_vjp",
    "identity_initialization",
    "imbalance",
    "near_zero_initialization",
    "overparameterize",
    "plan_overparameterization",
    "preconditioner_spectrum",
    "register_view",
    "select_parameters",
    "single_output_update",
]
