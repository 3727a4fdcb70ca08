import math

import pytest
import torch

from overparam import end_to_end_update
from overparam.theory.late_phase import predict_speedup
from overparam.theory.preconditioner import preconditioner_matrix


def _problem(m: int, n: int, cond: float = 50.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A Hessian for entries row by row, and an optimum."""
    generator = torch.Generator().manual_seed(m * n)
    size = m * n
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, math.log10(cond), size, dtype=torch.float64)
    return basis * values @ basis.mT, torch.randn(m, n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("m", "n", "depth"), [(2, 3, 2), (3, 2, 3), (3, 3, 1), (1, 4, 2)])
def test_condition_numbers_are_those_of_the_explicit_matrices(m: int, n: int, depth: int) -> None:
    hessian, optimum = _problem(m, n)
    # preconditioner_matrix stacks columns, the Hessian rows.
    order = torch.arange(m * n).view(m, n).mT.flatten()
    metric = torch.empty_like(hessian)
    metric[order[:, None], order] = preconditioner_matrix(optimum, depth)
    values = torch.linalg.eigvals(metric @ hessian).real
    found = predict_speedup(hessian, optimum, depth)
    plain, deep = torch.linalg.cond(hessian).item(), (values.max() / values.min()).item()
    assert found.plain == pytest.approx(plain, rel=1e-9)
    assert found.with_depth == pytest.approx(deep, rel=1e-9)
    rates = [math.log((cond - 1) / (cond + 1)) for cond in (deep, plain)]
    assert found.speedup == pytest.approx(rates[0] / rates[1], rel=1e-9)


@pytest.mark.parametrize(
    ("depth", "imbalance"), [(2, 0.0), (3, 0.0), (2, 0.7), (3, (0.0, 1.0, 0.5))]
)
def test_descent_near_the_optimum_has_the_predicted_rate(depth: int, imbalance) -> None:
    hessian, optimum = _problem(2, 3)

    def late_rate(rule) -> float:
        """Log error per step at the best rate, by power iteration on one step."""
        away = 1e-6 * torch.ones_like(optimum)

        def moved(offset: torch.Tensor) -> torch.Tensor:
            gradient = (hessian @ offset.flatten()).view_as(offset)
            return rule(optimum + offset, gradient)

        columns = [
            moved(1e-7 * unit.view_as(away)).flatten() / 1e-7 for unit in torch.eye(6).double()
        ]
        values = torch.linalg.eigvals(torch.stack(columns, 1)).real
        lr = 2 / (values.max() + values.min())
        sizes = []
        for _ in range(3000):
            away = away - lr * moved(away)
            sizes.append(away.norm().log().item())
            away = away * (1e-6 / away.norm()) if away.norm() < 1e-12 else away
            if len(sizes) > 1 and sizes[-1] < math.log(1e-11):
                break
        half = len(sizes) // 2
        return (sizes[half] - sizes[-1]) / (len(sizes) - 1 - half)

    plain = late_rate(lambda weight, gradient: gradient)
    deep = late_rate(lambda w, g: end_to_end_update(w, g, depth, imbalance=imbalance))
    found = predict_speedup(hessian, optimum, depth, imbalance=imbalance)
    assert found.speedup == pytest.approx(deep / plain, rel=0.02)


def test_a_loss_is_read_by_autograd_and_by_lanczos(monkeypatch: pytest.MonkeyPatch) -> None:
    hessian, optimum = _problem(4, 6, cond=300.0)

    def loss(weight: torch.Tensor) -> torch.Tensor:
        away = (weight - optimum).flatten()
        return away @ hessian @ away / 2 + (away**4).sum()

    expected = predict_speedup(hessian, optimum, 2)
    assert predict_speedup(loss, optimum, 2) == pytest.approx(expected, rel=1e-8)
    monkeypatch.setattr("overparam.theory.late_phase._DENSE", 0)
    assert predict_speedup(loss, optimum, 2) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(RuntimeError, match="did not find the smallest eigenvalue in 10 steps"):
        predict_speedup(loss, optimum, 2, steps=10)


def test_large_weights_are_never_a_matrix() -> None:
    target = torch.linspace(1, 2, 40 * 40, dtype=torch.float64).view(40, 40)

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return (target * (weight - torch.eye(40).double()) ** 2).sum() / 2

    found = predict_speedup(loss, torch.eye(40), 3)
    assert found.plain == pytest.approx(2.0, rel=1e-3)
    assert found.speedup == pytest.approx(1.0, rel=2e-3)  # P = 3 at an orthogonal weight


def test_degenerate_optima() -> None:
    hessian, _ = _problem(2, 2)
    singular = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert predict_speedup(hessian, singular, 2)[1:] == (math.inf, 0.0)
    assert predict_speedup(hessian, singular, 2, imbalance=1.0).with_depth < 1e3
    with pytest.raises(ValueError, match="not positive definite"):
        predict_speedup(torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0])), singular, 2)
    with pytest.raises(ValueError, match=r"pass a matrix \(4, 4\)"):
        predict_speedup(torch.eye(3), singular, 2)


@pytest.mark.parametrize("dense", [1024, 0])
def test_nothing_moves_at_a_zero_optimum_and_a_flat_loss_has_none(
    monkeypatch: pytest.MonkeyPatch, dense: int
) -> None:
    monkeypatch.setattr("overparam.theory.late_phase._DENSE", dense)
    zero = torch.zeros(2, 3)
    found = predict_speedup(lambda w: (w * torch.tensor([1.0, 2.0, 3.0]) * w).sum(), zero, 2)
    assert found == (pytest.approx(3), math.inf, 0)
    for flat in (lambda w: w.sum(), lambda w: 0 * w.square().sum()):
        with pytest.raises(ValueError, match="not positive definite"):
            predict_speedup(flat, zero + 1, 2)
    with pytest.raises(ValueError, match="not finite"):
        predict_speedup(lambda w: math.nan * w.square().sum(), zero + 1, 2)


def test_lanczos_waits_for_the_largest_eigenvalue_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small eigenvalue is found at once, the end of a dense row of others is not."""
    values = torch.linspace(1, 2, 400, dtype=torch.float64)
    values[0] = 0.9
    curved = values.view(20, 20)
    monkeypatch.setattr("overparam.theory.late_phase._DENSE", 0)
    identity = torch.eye(20, dtype=torch.float64)
    found = predict_speedup(lambda w: (curved * (w - identity).square()).sum(), identity, 1)
    assert found.plain == pytest.approx(2 / 0.9, rel=1e-5)


@pytest.mark.parametrize("m", [2, 33])
def test_no_optimum_has_a_concave_loss(m: int) -> None:
    ones = torch.ones(m, 32, dtype=torch.float64)
    with pytest.raises(ValueError, match="not positive definite"):
        predict_speedup(lambda w: w.sum() - w.square().sum(), ones, 1)
    with pytest.raises(ValueError, match="not positive definite"):
        predict_speedup(-torch.eye(4), torch.ones(4), 1)


@pytest.mark.parametrize("m", [2, 33])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_wherever_it_is_called(m: int, mode) -> None:
    scales = torch.logspace(0, 1, m, dtype=torch.float64)[:, None]
    ones = torch.ones(m, 32, dtype=torch.float64)
    with mode():
        found = predict_speedup(lambda w: (scales * w.square()).sum(), ones, 1)
    assert found == (pytest.approx(10), pytest.approx(10), pytest.approx(1))


def test_equal_eigenvalues() -> None:
    """Lanczos' method has met them all after one step, and the rates are both at once."""
    far = torch.randn(33, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation = torch.linalg.qr(far).Q
    found = predict_speedup(lambda w: (w - rotation).square().sum(), rotation, 3)
    assert found.plain == found.with_depth == found.speedup == 1
    two = torch.where(torch.arange(far.numel()) % 2 == 0, 1.0, 9.0).view_as(far)
    found = predict_speedup(lambda w: (two * (w - rotation).square()).sum(), rotation, 1)
    assert found == (pytest.approx(9), pytest.approx(9), pytest.approx(1))
    assert predict_speedup(2 * torch.eye(3), torch.zeros(3), 2, imbalance=1.0) == (1, 1, 1)


def test_what_is_no_problem_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optimum has shape \(1, 2, 2\)"):
        predict_speedup(torch.eye(4), torch.ones(1, 2, 2), 2)
    for empty in (torch.ones(()), torch.ones(0, 2)):
        with pytest.raises(ValueError, match="pass a matrix or a vector that has entries"):
            predict_speedup(torch.eye(1), empty, 2)
    with pytest.raises(ValueError, match="not finite"):
        predict_speedup(torch.full((2, 2), math.nan), torch.ones(2), 2)
    with pytest.raises(ValueError, match="not finite"):
        predict_speedup(lambda w: (math.nan * w.square()).sum(), torch.ones(33, 32), 2)


def test_a_loss_in_another_dtype_is_told_so() -> None:
    features = torch.randn(20, 4)
    with pytest.raises(TypeError, match=r"make them float64 too, with \.double"):
        predict_speedup(lambda weight: (features @ weight).square().mean(), torch.ones(4), 2)
    with pytest.raises(RuntimeError, match="size"):
        predict_speedup(lambda weight: (features.double() @ weight).mean(), torch.ones(5), 2)
