"""Independent ground truths for the rule: written from the paper's formula, not from the code."""

import torch
from torch import Tensor


def sum_over_factors(weight: Tensor, gradient: Tensor, depth: int, rank: int) -> Tensor:
    """Theorem 1 term by term in float64, with the rank given and never guessed.

    Both bases are completed, so that [W W^T]^0 and [W^T W]^0 are identities; the Gram matrices
    are never formed.
    """
    left, singular, right = torch.linalg.svd(weight.double(), full_matrices=True)
    singular = torch.cat((singular[:rank], singular.new_zeros(len(singular) - rank)))
    m, n = weight.shape
    rows = torch.nn.functional.pad(singular, (0, m - len(singular)))
    columns = torch.nn.functional.pad(singular, (0, n - len(singular)))
    rotated = left.mT @ gradient.double() @ right.mT
    total = torch.zeros_like(rotated)
    for j in range(1, depth + 1):
        left_power = rows ** (2 * (j - 1) / depth)
        right_power = columns ** (2 * (depth - j) / depth)
        total += left_power[:, None] * rotated * right_power[None, :]
    return left @ total @ right
