import pytest
import torch
from support.oracles import sum_over_factors

from overparam import balanced_factors, factor_product, imbalance
from overparam.theory.descent import descend_end_to_end, descend_factors
from overparam.theory.emulation import emulation_error, rescaled_factors, rotated_factors
from overparam.theory.losses import fit_to


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


@pytest.mark.parametrize("depth", [2, 3, 4, 8])
def test_error_halves_with_the_learning_rate(depth: int) -> None:
    start, target = _problem()
    factors = balanced_factors(start, depth)
    coarse, fine = (
        emulation_error(factors, fit_to(target, 0.5), lr, round(0.2 / lr)) for lr in (4e-3, 2e-3)
    )
    assert 1.7 < coarse / fine < 2.3


def test_error_is_the_distance_written_out() -> None:
    """Autograd and SGD on the factors, Theorem 1 term by term for the rule."""
    start, target = _problem()
    target = target + 3 * start  # so that the weight grows, and the largest size comes late
    factors = rescaled_factors(balanced_factors(start, 3), 0.2)
    leaves = [factor.clone().requires_grad_() for factor in factors]
    sgd = torch.optim.SGD(leaves, lr=0.02)
    rule, distances, sizes = start, [], []
    for _ in range(12):
        sgd.zero_grad()
        (0.5 * (leaves[2] @ leaves[1] @ leaves[0] - target) ** 2).sum().div(2).backward()
        sgd.step()
        rule = rule - 0.02 * sum_over_factors(rule, 0.5 * (rule - target), 3, rank=2)
        distances.append((leaves[2] @ leaves[1] @ leaves[0] - rule).norm().item())
        sizes.append(rule.norm().item())
    assert max(sizes) > start.norm().item()
    expected = max(distances) / max(sizes)
    error = emulation_error(factors, fit_to(target, 0.5), 0.02, 12)
    assert error.item() == pytest.approx(expected, rel=1e-10)


def test_runs_of_a_batch_have_rates_and_lengths_of_their_own() -> None:
    start, target = _problem()
    factors = balanced_factors(start, 2)
    lrs, steps = torch.tensor([0.1, 0.02, 5.0]).double(), torch.tensor([5, 30, 2])
    copies = [factor.expand(3, *factor.shape) for factor in factors]
    batch = emulation_error(copies, fit_to(target), lrs, steps)
    for k in range(3):
        alone = emulation_error(factors, fit_to(target), lrs[k].item(), int(steps[k]))
        torch.testing.assert_close(batch[k], alone)
    # The last run would leave the finite numbers if it went on, and must not spoil its own slot.
    assert bool(batch.isfinite().all())


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
    for weight in (start, start.expand(4, 2, 3)):
        rotated = rotated_factors(balanced_factors(weight, 3, 6))
        torch.testing.assert_close(factor_product(rotated), weight)
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


@pytest.mark.parametrize("offsets", [(0.0, 0.7), (0.7, 0.0), (0.0, 1.0, 0.5), (1.0, 0.0, 0.5)])
@pytest.mark.parametrize("shape", [(3, 4), (4, 2)])
def test_unbalanced_factors_follow_the_rule_with_their_imbalance(
    shape: tuple[int, int], offsets: tuple[float, ...]
) -> None:
    start, target = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).double()
    factors = balanced_factors(start / 2, len(offsets), imbalance=offsets)
    gradient_of = fit_to(target, 0.5)
    errors = [
        emulation_error(factors, gradient_of, lr, round(0.1 / lr), imbalance=offsets).item()
        for lr in (2e-3, 1e-3)
    ]
    assert 0.45 < errors[1] / errors[0] < 0.55
    assert emulation_error(factors, gradient_of, 1e-3, 100).item() > 10 * errors[1]
