"""Layers and steps shared by the tests of the rule's family in EndToEnd."""

import torch
from torch import Tensor, nn

from overparam import EndToEnd, preconditioner_spectrum
from overparam.layers import parameter_view

OFFSETS = {2: -0.7, 3: (0.4, 0.0, 1.3), 4: (0.0, 0.5, 0.2, 1.0)}

LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), "weight"),
    "tall": (lambda: nn.Linear(3, 7), "weight"),
    "one column": (lambda: nn.Linear(1, 4), "weight"),
    "one row": (lambda: nn.Linear(4, 1), "weight"),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), "weight"),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), "weight"),
    "packed attention": (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight"),
}


def moved(p: nn.Parameter, params=None, *, lr: float = 1.0, **options) -> Tensor:
    """The direction of one step."""
    before = p.detach().clone()
    EndToEnd([p] if params is None else params, lr, **options).step()
    return (before - p.detach()) / lr


def layer(name: str, dtype: torch.dtype = torch.float64):
    """A layer, its weight with a gradient, and the matrices of the weight."""
    torch.manual_seed(0)
    make, weight = LAYERS[name]
    module = make().to(dtype)
    p = getattr(module, weight)
    p.grad = torch.randn_like(p)
    view = parameter_view(module, weight)
    assert view is not None
    return module, p, view


def largest_eigenvalues(weight: Tensor, depth: int, imbalance) -> Tensor:
    eigenvalues = preconditioner_spectrum(weight, depth, imbalance=imbalance).eigenvalues
    return eigenvalues.amax((-2, -1), keepdim=True)
