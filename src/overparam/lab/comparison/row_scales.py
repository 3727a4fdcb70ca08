"""Random weight factorization: each weight as random row scales times a matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from overparam.layers.select import select_parameters
from overparam.layers.views import MatrixView

DEVIATION = 0.1


class RowScales(nn.Module):
    r"""The parametrization ``W = diag(exp(s)) V``, with random ``s`` at the start.

    .. math:: W = \mathrm{diag}(e^s)\, V, \qquad s \sim N(\mu, \sigma^2)

    V starts as ``diag(exp(-s)) W``, so W starts as it was. A small step of gradient descent on
    both moves row r of W by ``-lr (e^(2 s_r) g_r + <g_r, w_r> w_r)``: a learning rate for each row,
    and a stretch along it. Source: Wang, Wang, Seidman, Perdikaris (2022), "Random weight
    factorization improves the training of continuous neural representations", arXiv 2210.01274.

    Args:
        view: how the weight is read as matrices; their rows get the scales.
        mean: ``mu``.
        deviation: ``sigma``.
    """

    def __init__(self, view: MatrixView, mean: float, deviation: float = DEVIATION) -> None:
        super().__init__()
        self.view, self.mean, self.deviation = view, mean, deviation

    def forward(self, scales: Tensor, directions: Tensor) -> Tensor:
        """The weight."""
        return self.view.join(scales.exp() * self.view.split(directions))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Scales ``(batch, rows, 1)``, drawn from torch's global generator, and V."""
        noise = torch.randn(self.view.batch, self.view.rows, 1).to(weight)
        scales = self.mean + self.deviation * noise
        return scales, self.view.join(self.view.split(weight) / scales.exp())


def scale_rows(model: nn.Module, mean: float, exclude: list[str] | None = None) -> None:
    """Factor every weight that is a matrix, in place, as :class:`RowScales`; tied ones stay.

    Args:
        model: freshly built.
        mean: of the logarithms of the scales.
        exclude: weights to leave out, as for :class:`overparam.EndToEnd`.
    """
    for chosen in select_parameters(model, exclude=exclude).selected:
        site = chosen.sites[0]
        if len(chosen.sites) == 1:
            register_parametrization(site.module, site.attribute, RowScales(chosen.view, mean))
