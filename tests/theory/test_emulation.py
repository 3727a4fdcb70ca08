import pytest
import torch

from overparam import balanced_factors, factor_product, imbalance
from overparam.theory.descent import descend_end_to_end, descend_factors, fit_to
from overparam.theory.emulation import check, emulation_error, rescaled_factors, rotated_factors


def _problem(m: int = 2, n: int = 3):
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, m, n, generator=generator, dtype=torch.float64)
    return start, target


def test_descent_on_factors_is_autograd_and_sgd() -> None:
    start, target = _problem()
    factors = balanced_factors(start, 3, 4)
    path = descend_factors(factors, fit_to(target), 0.05, 10, weight_decay=0.1)
    leaves = [factor.clone().requires_grad_() for factor in factors]
    sgd = torch.optim.SGD(leaves, lr=0.05, weight_decay=0.1)
    for _ in range(10):
        sgd.zero_grad()
        ((leaves[2] @ leaves[1] @ leaves[0] - target) ** 2).sum().div(2).backward()
        sgd.step()
    for ours, theirs in zip(path[-1], leaves, strict=True):
        torch.testing.assert_close(ours, theirs.detach())


def test_fit_to_is_the_gradient_of_its_loss() -> None:
    weight, target = _problem()
    scale = torch.rand(2, 3, dtype=torch.float64)
    leaf = weight.clone().requires_grad_()
    (scale * (leaf - target) ** 2).sum().div(2).backward()
    torch.testing.assert_close(fit_to(target, scale)(weight), leaf.grad)


@pytest.mark.parametrize("depth", [2, 3, 4, 8])
def test_error_halves_with_the_learning_rate(depth: int) -> None:
    start, target = _problem()
    factors = balanced_factors(start, depth)
    coarse, fine = (
        emulation_error(factors, fit_to(target, 0.5), lr, round(0.2 / lr)) for lr in (4e-3, 2e-3)
    )
    assert 1.7 < coarse / fine < 2.3


def test_weight_decay_enters_the_rule_n_times() -> None:
    start, target = _problem()
    ends = []
    for lr in (2e-3, 1e-3):
        path = descend_factors(
            balanced_factors(start, 3), fit_to(target), lr, round(0.2 / lr), weight_decay=0.5
        )
        rule = descend_end_to_end(start, fit_to(target), 3, lr, round(0.2 / lr), weight_decay=0.5)
        ends.append((factor_product(path[-1]) - rule[-1]).norm().item())
    assert 1.7 < ends[0] / ends[1] < 2.3


def test_rotation_keeps_product_and_balance_and_fills_the_padding() -> None:
    start, _ = _problem()
    rotated = rotated_factors(balanced_factors(start, 3, 6))
    torch.testing.assert_close(factor_product(rotated), start)
    assert imbalance(rotated).max() < 1e-13
    assert bool((rotated[1] != 0).all())


def test_an_unbalanced_start_leaves_the_rule() -> None:
    start, target = _problem()
    balanced = balanced_factors(start, 3)
    off = rescaled_factors(balanced, 0.5)
    torch.testing.assert_close(factor_product(off), start)
    at, away = (emulation_error(f, fit_to(target), 1e-3, 200) for f in (balanced, off))
    assert away > 20 * at
    with pytest.raises(ValueError, match="at least 2"):
        rescaled_factors(balanced[:1], 0.5)


def test_check_holds() -> None:
    assert check().verdict == "holds"
