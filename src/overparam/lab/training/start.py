"""Where runs start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from overparam.factors.balance import identity_initialization, near_zero_initialization
from overparam.factors.product import factor_product
from overparam.lab.methods import Method
from overparam.lab.study import Study


def initial_parameters(
    method: Method, seed: int, outputs: int, inputs: int, study: Study
) -> tuple[Tensor, ...]:
    """Initial parameters of one run, in float64.

    All methods draw their factors from a generator with the same seed, W_1 first. So, if the width
    is the number of outputs, the plain weight of a seed is the first factor of its deeper networks.
    The rule starts at the product of the factors of its depth. At a depth between two whole
    numbers, it starts in the direction of the shallower product, with a geometrically interpolated
    norm.
    """

    def factors(depth: int) -> tuple[Tensor, ...]:
        draw = identity_initialization if study.init == "identity" else near_zero_initialization
        first, *others = draw(
            outputs,
            inputs,
            depth,
            width=study.width or None,
            std=study.init_std,
            generator=torch.Generator().manual_seed(seed),
            dtype=torch.float64,
        )
        if study.init == "residual":
            others = [factor + torch.eye(*factor.shape).to(factor) for factor in others]
        return (first, *others)

    # A stretch is not a depth: its weight starts as a plain one.
    depth = 1.0 if method.depth_kind == "radial" else method.depth
    shallow = factors(math.floor(depth))
    if method.depth_kind == "factors":
        return shallow
    product = factor_product(shallow)
    fraction = depth - math.floor(depth)
    if fraction:
        deep = factor_product(factors(math.ceil(depth)))
        product = product * (deep.norm() / product.norm()) ** fraction
    return (product,)
