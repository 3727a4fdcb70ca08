"""Section 3: with depth 2 and a scalar, each step is a weighted sum of all past gradients."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import torch

from overparam.lab.charts.theme import BLUE, ORANGE
from overparam.lab.theory.check import (
    Point,
    Row,
    TheoryCheck,
    chart_rows,
    evidence_of,
    largest,
    power_law_exponent,
)
from overparam.lab.theory.theme import HEIGHT, WIDTH, apart, chosen, lines, log_scaled
from overparam.theory.memory import memory_weights, weights_from_gradients
from overparam.theory.power_loss import power_loss_gradient
from overparam.theory.scalar_run import adaptive_lr, run_with_scalar, shrink_rates


def check() -> TheoryCheck:
    """Run depth 2 with a scalar at falling learning rates and rebuild each run from its gradients.

    Example:
        >>> print(check().verdict)
        yes
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    labels = features @ torch.tensor([1.0, -0.5, 0.25, 2.0], dtype=torch.float64)
    direction = torch.randn(4, generator=generator, dtype=torch.float64)
    inner = 0.01 * direction
    gradient_of = power_loss_gradient(features, labels, power=2)
    lrs = [0.04 / 2**k for k in range(5)]
    step_errors, path_errors, exact = [], [], []
    points: list[Point] = []
    for lr in lrs:
        run = run_with_scalar(gradient_of, inner, 0.1, lr, steps=round(8 / lr))
        rho, gamma, weights = adaptive_lr(run), shrink_rates(run), run.weights
        predicted = weights[:-1] - rho[:, None] * run.gradients - gamma[:, None] * weights[:-1]
        step_errors.append((weights[1:] - predicted).norm(dim=-1).max().item())
        rebuilt = weights_from_gradients(run.gradients, rho, gamma, weights[0])
        away = (rebuilt - weights).norm(dim=-1).max() / weights.norm(dim=-1).max()
        path_errors.append(away.item())
        recursion = [weights[0]]
        for lr_now, gradient, shrink in zip(rho, run.gradients, gamma, strict=True):
            recursion.append(recursion[-1] - lr_now * gradient - shrink * recursion[-1])
        exact.append((rebuilt - torch.stack(recursion)).abs().max().item())
        for panel, error in (("one step", step_errors[-1]), ("whole run", path_errors[-1])):
            points.append((panel, lr, error, 0.0))
    scales, dropped = [0.1 / 2**k for k in range(5)], []
    for scale in scales:
        run = run_with_scalar(gradient_of, scale * direction, scale, 0.02, steps=800)
        given = (run.gradients, adaptive_lr(run), shrink_rates(run))
        carried = weights_from_gradients(*given, run.weights[0]) - weights_from_gradients(*given)
        dropped.append((carried[-1].norm() / run.weights[-1].norm()).item())
    run = run_with_scalar(gradient_of, inner, 0.1, lrs[0], steps=round(4 / lrs[0]))
    mu = memory_weights(adaptive_lr(run), shrink_rates(run))
    # Divided by lr^2, the coefficients have a limit as lr falls.
    scaled = (mu / lrs[0] ** 2).tolist()
    points += [
        ("mu", float(tau), float(t), scaled[t][tau])
        for t in range(0, len(mu), 2)
        for tau in range(0, t, 2)
    ]
    measured = {
        "exponent of lr in the error of one step": (1.9, power_law_exponent(lrs, step_errors), 2.1),
        "exponent of lr in the relative error of the run rebuilt from its gradients, rho, "
        "gamma and first weight": (0.8, power_law_exponent(lrs, path_errors), 1.2),
        "largest difference between the sum over past gradients and the step-by-step "
        "recursion (weights of order 1)": (0, largest(exact), 1e-10),
        "exponent of the scale of the first weights in the share of the last weight that "
        "comes from them, not from gradients": (0.9, power_law_exponent(scales, dropped), 1.1),
    }
    return TheoryCheck(
        name="memory",
        claim=(
            "With depth 2 and a scalar, each step is a weighted sum of past gradients, up to "
            "O(lr^2) per step and a term that vanishes with the initialization."
        ),
        source="Arora, Cohen, Hazan (2018), section 3",
        evidence=evidence_of(measured),
        rows=chart_rows(("panel", "x", "y", "value"), points),
        notes=(
            "Rebuilt from past gradients alone, without the first weight, the last one is off by "
            + ", ".join(
                f"{share:.2g} of its length at scale {scale:.2g}"
                for scale, share in zip(scales, dropped, strict=True)
            )
            + " (the scale of w1 and omega2 at the start).",
        ),
    )


def chart(rows: Sequence[Row]) -> alt.HConcatChart:
    """Errors against the learning rate, and the memory weights of one run."""
    errors = [row for row in rows if row["panel"] != "mu"]
    left = lines(errors, "The error of one step is lr², of a whole run lr", size=50).encode(
        x=log_scaled(alt.X, "x", "Learning rate", errors),
        y=log_scaled(alt.Y, "y", "Error", errors),
        **apart("panel", "Error of", legend=alt.Legend(orient="bottom")),
    )
    mu = chosen(rows, panel="mu")
    step = WIDTH / len({row["x"] for row in mu}) + 0.6
    bound = max(abs(row["value"]) for row in mu)
    right = (
        alt.Chart(alt.Data(values=mu), title="How much step t remembers of gradient τ")
        .mark_square(size=step**2 * 1.2, opacity=1)
        .encode(
            x=alt.X("x:Q", title="Past gradient τ", axis=alt.Axis(grid=False)),
            y=alt.Y("y:Q", title="Step t", axis=alt.Axis(grid=False)),
            color=alt.Color(
                "value:Q",
                title="μ / lr²",
                scale=alt.Scale(range=[ORANGE, "#f4f4f4", BLUE], domain=[-bound, 0, bound]),
            ),
        )
        .properties(width=WIDTH, height=HEIGHT)
    )
    return alt.hconcat(left, right, spacing=40).resolve_scale(
        color="independent", strokeDash="independent"
    )
