"""What the law of the late phase predicts for the cells of the map."""

from __future__ import annotations

import polars as pl
import torch
from torch import Tensor

from overparam.data import RegressionData
from overparam.theory.late_phase import predict_speedup

# Descent with these is what the law is about; it gives the side for both, the factor for one.
LAWFUL = ("gd", "momentum")


def predicted_speedup(
    data: RegressionData, minimizer: Tensor, power: float, depth: float
) -> float | None:
    r"""How much depth speeds up the late phase of gradient descent on a p-th power loss.

    The Hessian of ``sum |x w - y|^p`` in the weights of one output is a multiple of
    ``X^T diag(|e|^(p-2)) X`` with the residuals e at the optimum; outputs do not mix.

    Args:
        data: standardized.
        minimizer: ``W*``, ``(m, n)``.
        power: ``p >= 2``.
        depth: ``N``.

    Returns:
        See :func:`overparam.theory.predict_speedup`; None where the optimum is degenerate.
    """
    x, weight = data.features.double(), minimizer.double()
    sizes = (x @ weight.mT - data.targets.double()).abs() ** (power - 2)
    hessian = torch.block_diag(*(x.mT @ (size[:, None] * x) for size in sizes.unbind(dim=1)))
    try:
        return predict_speedup(hessian, weight, depth).speedup
    except ValueError:
        return None


def how_often_right(table: pl.DataFrame) -> str:
    """A sentence on the decided cells of the map that the law is about.

    Args:
        table: with the columns ``outcome`` ("faster", "slower" or another) and ``predicted``.
    """
    cells = table.filter(
        pl.col("predicted").is_not_null() & pl.col("outcome").is_in(["faster", "slower"])
    )
    if not len(cells):
        return "No cell is decided among those to which the law of the late phase applies."
    right = ((cells["predicted"] > 1) == (cells["outcome"] == "faster")).sum()
    return (
        "The law of the late phase (condition numbers at the optimum, overparam.theory."
        f"predict_speedup) is right about whether depth is faster in {right} of the {len(cells)} "
        "decided cells of gradient descent and heavy ball. It ignores the start: a depth that "
        "still waits near its start is slower whatever the law predicts."
    )
