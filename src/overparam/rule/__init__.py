"""The end-to-end update rule and its family: Theorem 1, Claims 1 and 2, imbalance, entries."""

from overparam.rule.entrywise import entrywise_update
from overparam.rule.metric import metric_normalized
from overparam.rule.reference import (
    PreconditionerSpectrum,
    end_to_end_update,
    preconditioner_spectrum,
    single_output_update,
)
from overparam.rule.sign import preconditioned_sign

__all__ = [
    "PreconditionerSpectrum",
    "end_to_end_update",
    "entrywise_update",
    "metric_normalized",
    "preconditioned_sign",
    "preconditioner_spectrum",
    "single_output_update",
]
