import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracles import sum_over_factors

from overparam.theory.asymmetry import antisymmetric_jacobian
from overparam.theory.field import end_to_end_field
from overparam.theory.no_regularizer import (
    circulation,
    circulation_constant_gradient,
    closed_curve,
)
from overparam.theory.power_loss import power_loss_gradient

_E, _OTHER = torch.eye(3, dtype=torch.float64)[:2]


@pytest.mark.parametrize("depth", [1.0, 1.3, 2.0, 2.7, 3.0, 8.0])
def test_quadrature_closed_form_and_integration_piece_by_piece(depth: float) -> None:
    size, inner, outer = 1.3, 0.4, 1.9
    measured = circulation(
        end_to_end_field(lambda _: size * _E, depth), closed_curve(_E, _OTHER, inner, outer)
    ).item()
    # The integrals of Claim 2 on each piece, at 30 digits: along e the rule is N c s^(2 - 2/N);
    # on a circle at angle t its tangential part is -c sin(t) s^(2 - 2/N), with no stretch.
    power = 2 - mpmath.mpf(2) / depth
    radial = mpmath.quad(lambda s: depth * size * s**power, [inner, outer])
    arc = mpmath.quad(lambda t: -size * mpmath.sin(t), [0, mpmath.pi])
    exact = 2 * radial - inner ** (power + 1) * arc + outer ** (power + 1) * arc
    closed = circulation_constant_gradient(size, depth, inner, outer)
    assert abs(measured - float(exact)) < 1e-11
    assert abs(closed - float(exact)) < 1e-12


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    depth=st.floats(1, 30),
    size=st.floats(-3, 3),
    inner=st.floats(0.2, 1),
    stretch=st.floats(1.1, 5),
    seed=st.integers(0, 99),
)
def test_any_depth_radii_and_directions_give_the_closed_form(
    depth: float, size: float, inner: float, stretch: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    e, other = torch.linalg.qr(noise).Q.mT
    outer = inner * stretch
    measured = circulation(
        end_to_end_field(lambda _: size * e, depth), closed_curve(e, other, inner, outer)
    ).item()
    expected = circulation_constant_gradient(size, depth, inner, outer)
    assert measured == pytest.approx(expected, abs=1e-10 * (1 + outer**3) * depth)


def test_a_small_circle_measures_the_antisymmetric_part() -> None:
    """Stokes, in every coordinate plane: the two certificates are one."""
    features = torch.randn(20, 3, dtype=torch.float64)
    gradient_of = power_loss_gradient(features, torch.ones(20, dtype=torch.float64), 4)
    field, point = end_to_end_field(gradient_of, 3), torch.tensor([0.3, -0.5, 0.4]).double()
    _, part = antisymmetric_jacobian(field, point)
    axes, radius = torch.eye(3, dtype=torch.float64), 1e-4
    for i, j in ((0, 1), (0, 2), (1, 2)):

        def circle(time: torch.Tensor, i: int = i, j: int = j) -> torch.Tensor:
            angle = 2 * math.pi * time[:, None]
            return point + radius * (torch.cos(angle) * axes[j] + torch.sin(angle) * axes[i])

        turning = circulation(field, [circle]).item() / (2 * math.pi * radius**2)
        assert turning == pytest.approx(part[i, j].item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2)])
def test_the_field_of_a_matrix_is_the_rule_row_by_row(shape: tuple[int, int]) -> None:
    points, slopes = torch.randn(2, 4, 6, dtype=torch.float64)
    moved = end_to_end_field(lambda _: slopes, 3, shape)(points)
    for point, slope, move in zip(points, slopes, moved, strict=True):
        expected = sum_over_factors(point.reshape(shape), slope.reshape(shape), 3, rank=2)
        torch.testing.assert_close(move.reshape(shape), expected)


def test_a_gradient_field_has_no_circulation() -> None:
    curve = closed_curve(_E, _OTHER, 0.5, 2.0)
    potential = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    assert abs(circulation(lambda w: (w - potential) ** 3, curve).item()) < 1e-12


def test_any_loss_converges_in_the_number_of_nodes() -> None:
    features = torch.randn(10, 3, dtype=torch.float64)
    gradient_of = power_loss_gradient(features, torch.ones(10, dtype=torch.float64), 4)
    field, curve = end_to_end_field(gradient_of, 3), closed_curve(_E, _OTHER, 0.5, 2.0)
    coarse, fine = (circulation(field, curve, nodes).item() for nodes in (40, 80))
    assert abs(coarse - fine) < 1e-9 * abs(fine)
    assert abs(fine) > 1e-3


def _central_differences(field, point: torch.Tensor) -> torch.Tensor:
    h = 1e-5
    steps = h * torch.eye(len(point), dtype=torch.float64)
    return ((field(point + steps) - field(point - steps)) / (2 * h)).mT


@pytest.mark.parametrize("shape", [None, (2, 3), (3, 2)])
def test_jacobian_against_finite_differences(shape: tuple[int, int] | None) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    point = torch.randn(6, generator=generator, dtype=torch.float64)
    gradient_of = power_loss_gradient(features, torch.ones(20, dtype=torch.float64), 4)
    field = end_to_end_field(gradient_of, 3, shape)
    jacobian, part = antisymmetric_jacobian(field, point)
    torch.testing.assert_close(jacobian, _central_differences(field, point), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(part, (jacobian - jacobian.mT) / 2)
    assert part.norm() > 1e-3 * jacobian.norm()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="inner < outer"):
        closed_curve(_E, _OTHER, 2.0, 1.0)
    with pytest.raises(ValueError, match="orthogonal"):
        closed_curve(_E, _E, 1.0, 2.0)
    with pytest.raises(ValueError, match="do not fit"):
        power_loss_gradient(torch.ones(5, 2), torch.ones(5, 1), 2)
    with pytest.raises(ValueError, match="at least one"):
        circulation(lambda w: w, ())
    with pytest.raises(ValueError, match="vector"):
        antisymmetric_jacobian(lambda w: w, torch.eye(2))
    with pytest.raises(ValueError, match="depth"):
        circulation_constant_gradient(1.0, 0.5, 1.0, 2.0)


def _loss_gradient(create_graph: bool):
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def gradient_of(points: torch.Tensor) -> torch.Tensor:
        keep = create_graph and points.requires_grad
        at = points if keep else points.detach().requires_grad_()
        loss = ((at @ features.mT - 1) ** 2).sum()
        return torch.autograd.grad(loss, at, create_graph=create_graph)[0]

    return gradient_of


def test_a_gradient_cut_out_of_the_graph_is_an_error_not_a_wrong_certificate() -> None:
    point = torch.linspace(0.3, 1, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="pass create_graph=True"):
        antisymmetric_jacobian(end_to_end_field(_loss_gradient(create_graph=False), 3), point)
    field = end_to_end_field(_loss_gradient(create_graph=True), 3)
    jacobian, _ = antisymmetric_jacobian(field, point)
    torch.testing.assert_close(jacobian, _central_differences(field, point), atol=1e-6, rtol=1e-6)


def test_a_constant_field_has_no_jacobian_to_speak_of() -> None:
    jacobian, part = antisymmetric_jacobian(torch.ones_like, torch.ones(3, dtype=torch.float64))
    assert not jacobian.any()
    assert not part.any()


def test_a_kink_is_an_error() -> None:
    field = end_to_end_field(torch.ones_like, 3, shape=(2, 3))
    with pytest.raises(ValueError, match="kink"):
        antisymmetric_jacobian(field, torch.ones(6, dtype=torch.float64))
