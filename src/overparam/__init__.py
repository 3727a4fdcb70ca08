"""Implicit acceleration by overparameterization: train a weight as if it were a product."""

from overparam.balance import (
    balanced_factors,
    balanced_initialization,
    identity_initialization,
    imbalance,
    near_zero_initialization,
)
from overparam.product import factor_product, factor_product_vjp
from overparam.rule import (
    PreconditionerSpectrum,
    end_to_end_update,
    preconditioner_spectrum,
    single_output_update,
)

__version__ = "0.1.0"

__all__ = [
    "PreconditionerSpectrum",
    "balanced_factors",
    "balanced_initialization",
    "end_to_end_update",
    "factor_product",
    "factor_product_vjp",
    "identity_initialization",
    "imbalance",
    "near_zero_initialization",
    "preconditioner_spectrum",
    "single_output_update",
]
