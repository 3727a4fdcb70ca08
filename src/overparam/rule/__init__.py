"""The end-to-end update rule: Theorem 1, Claims 1 and 2."""

from overparam.rule.reference import (
    PreconditionerSpectrum,
    end_to_end_update,
    preconditioner_spectrum,
    single_output_update,
)

__all__ = [
    "PreconditionerSpectrum",
    "end_to_end_update",
    "preconditioner_spectrum",
    "single_output_update",
]
