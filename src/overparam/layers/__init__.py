"""What a weight of a model is: how it is read as matrices, and which weights are chosen.

All doors ask this package: ``EndToEnd``, ``Factored``, ``Radial`` and ``overparameterize``.
"""

from overparam.layers.registry import parameter_view, register_view
from overparam.layers.select import Selection, select_parameters
from overparam.layers.views import (
    MatrixView,
    convolution_view,
    embedding_view,
    expert_view,
    flat_view,
    linear_view,
    packed_view,
    transposed_convolution_view,
    transposed_linear_view,
    vector_view,
)

__all__ = [
    "MatrixView",
    "Selection",
    "convolution_view",
    "embedding_view",
    "expert_view",
    "flat_view",
    "linear_view",
    "packed_view",
    "parameter_view",
    "register_view",
    "select_parameters",
    "transposed_convolution_view",
    "transposed_linear_view",
    "vector_view",
]
