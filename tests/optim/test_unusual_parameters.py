"""Parameters that share memory, that are complex, that are swapped, or off the default device."""

import copy

import pytest
import torch
from torch import Tensor, nn

from overparam import EndToEnd, Factored, Radial, end_to_end_update
from overparam._finite import is_finite, largest_entries

WRAPPERS = {"rule": EndToEnd, "factors": Factored, "radial": Radial}
every_wrapper = pytest.mark.parametrize("kind", WRAPPERS.values(), ids=WRAPPERS)
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


@every_wrapper
def test_a_neighbour_in_one_buffer_that_has_no_gradient_stays(kind):
    """Views of one buffer count their versions together."""
    buffer = torch.randn(18, generator=torch.Generator().manual_seed(0))
    moving, resting = (nn.Parameter(part.view(3, 3)) for part in buffer.split(9))
    alone = nn.Parameter(moving.detach().clone())
    moving.grad = torch.ones(3, 3)
    alone.grad = torch.ones(3, 3)
    optimizer = kind([moving, resting], lr=0.1, inner="sgd")
    before = resting.detach().clone()
    optimizer.step()
    kind([alone], lr=0.1, inner="sgd").step()
    assert torch.equal(moving, alone)
    assert torch.equal(resting, before)
    assert resting not in optimizer.state


class Filtered(nn.Module):
    """A linear layer, and complex numbers on top, as spectral layers have them."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.filter = nn.Parameter(torch.randn(*shape, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.complex(self.linear(x), self.linear(2 * x))
        return (
            hidden @ self.filter.conj() if self.filter.ndim == 2 else hidden * self.filter
        ).abs()


@pytest.mark.parametrize("shape", [(3,), (3, 3)])
@pytest.mark.parametrize("granularity", ["auto", "row", "tensor", "entry"])
def test_complex_parameters_take_the_step_of_the_inner_optimizer(granularity, shape):
    torch.manual_seed(0)
    model = Filtered(*shape)
    plain = copy.deepcopy(model)
    optimizer = EndToEnd(model, lr=0.1, depth=2, granularity=granularity)
    for each in (model, plain):
        each(X).square().mean().backward()
    optimizer.step()
    torch.optim.SGD([plain.filter], lr=0.1).step()
    assert torch.equal(model.filter, plain.filter)
    assert {row["parameter"]: row["rule"] for row in optimizer.routing()}["filter"] == "plain"


def test_complex_gradients_that_are_not_finite_are_skipped():
    torch.manual_seed(0)
    model = Filtered(3)
    optimizer = EndToEnd(model, lr=0.1, depth=2)
    model(X).square().mean().backward()
    model.filter.grad[1] = complex(0, torch.inf)
    before = model.filter.detach().clone()
    optimizer.step()
    assert torch.equal(model.filter, before)
    assert optimizer.state[model.filter]["skipped"] == 1


def test_complex_numbers_are_finite_where_both_parts_are():
    for parts, finite in (((1.0, 2.0), True), ((1.0, torch.nan), False), ((torch.inf, 0.0), False)):
        number = torch.tensor([complex(*parts)])
        for each in (number, number.conj()):
            assert is_finite(each) is finite
            assert bool(largest_entries([each])[0].isfinite()) is finite


@every_wrapper
def test_a_model_may_be_converted_by_swapping(kind):
    """As ``torch.__future__.set_swap_module_params_on_conversion`` does: objects are exchanged."""
    ends = []
    for swaps in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = kind(model, lr=0.1, inner="sgd")
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        try:
            for convert in (lambda: None, model.double, model.float):
                convert()
                model.zero_grad()
                model(X.to(model.weight.dtype)).square().mean().backward()
                optimizer.step()
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        ends.append(model.weight.detach().clone())
    assert torch.equal(*ends)


@pytest.mark.parametrize("basis", ["exact", "tracked"])
@pytest.mark.parametrize("every", [1, 10])
def test_a_basis_follows_a_model_to_another_dtype_and_back(basis, every):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = EndToEnd(model, lr=0.01, depth=2, basis=basis, basis_every=every, normalize=False)
    for dtype in (torch.float32, torch.float64, torch.float32, torch.float16, torch.float64):
        model.to(dtype).zero_grad()
        model(X.to(dtype)).square().mean().backward()
        before = model.weight.detach().double().clone()
        expected = end_to_end_update(before, model.weight.grad.double(), 2)
        optimizer.step()
        step = (before - model.weight.detach().double()) / 0.01
        torch.testing.assert_close(step, expected, atol=0.05, rtol=0.02)


@every_wrapper
def test_a_model_may_be_elsewhere_than_the_default_device(kind):
    if torch.__version__ < (2, 11):
        pytest.skip("Adam of this torch itself fails there")
    ends = []
    for device in (None, "meta"):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        torch.set_default_device(device)
        try:
            optimizer = kind(model, lr=0.1, inner="adam")
            model(X).square().mean().backward()
            optimizer.step()
        finally:
            torch.set_default_device(None)
        ends.append(model.weight.detach().clone())
    assert torch.equal(*ends)
