"""The value of a product reads as a tensor, and refuses to be written."""

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from overparam.reparam import collapse, collapsed, overparameterize


def _values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def _same(before: list[Tensor], model: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


WRITES: dict[str, Callable[[nn.Module], Any]] = {
    "init": lambda layer: nn.init.zeros_(layer.weight),
    "init with a protocol": lambda layer: nn.init.uniform_(layer.weight),
    "kaiming": lambda layer: nn.init.kaiming_uniform_(layer.weight),
    "reset": lambda layer: layer.reset_parameters(),
    "in place": lambda layer: layer.weight.detach().mul_(2),
    "data": lambda layer: layer.weight.data.normal_(0, 0.02),
    "row": lambda layer: layer.weight.data[0].zero_(),
    "item": lambda layer: layer.weight.data.__setitem__(0, 1.0),
    "view": lambda layer: layer.weight.detach().view(-1)[:2].fill_(0),
    "parts": lambda layer: layer.weight.detach().chunk(2)[0].copy_(torch.ones(1, 3)),
    "out": lambda layer: torch.add(torch.ones(2, 3), 1, out=layer.weight.data),
    "foreach": lambda layer: torch._foreach_mul_([layer.weight.data], 2),
    "copy": lambda layer: layer.weight.copy_(torch.ones(2, 3)),
    "freeze": lambda layer: layer.weight.requires_grad_(False),
    "flag": lambda layer: setattr(layer.weight, "requires_grad", False),
    "grad": lambda layer: setattr(layer.weight, "grad", torch.ones(2, 3)),
}


@pytest.mark.parametrize("way", WRITES)
@pytest.mark.parametrize("with_grad", [False, True])
def test_writing_into_a_product_is_refused(way: str, with_grad: bool) -> None:
    layer = overparameterize(nn.Linear(3, 2))
    before = _values(layer)
    with (
        torch.set_grad_enabled(with_grad),
        pytest.raises(
            RuntimeError, match="would write into weight of a Linear, which is a product"
        ),
    ):
        WRITES[way](layer)
    assert _same(before, layer)
    with collapsed(layer), torch.no_grad():
        layer.weight.mul_(2)
    assert not _same(before, layer)


def test_models_that_write_in_their_forward_pass_are_refused_too() -> None:
    class Clamped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data.clamp_(min=0)
            return super().forward(x)

    layer = overparameterize(Clamped(3, 2))
    with pytest.raises(RuntimeError, match="clamp_ would write into weight of a Clamped"):
        layer(torch.ones(1, 3))


def test_reading_a_product_gives_plain_tensors() -> None:
    layer = overparameterize(nn.Linear(3, 2))
    weight = layer.weight
    assert not isinstance(weight, nn.Parameter)
    assert type(weight * 1) is type(weight.clone()) is type(weight.sum()) is Tensor
    assert "tensor(" in repr(weight)
    assert weight.detach().numpy().shape == (2, 3)
    weight.square().sum().backward()
    assert all(f.grad is not None for f in layer.parametrizations.parameters())
    file = io.BytesIO()
    torch.save({"w": weight.detach(), "row": weight.detach()[0]}, file)
    file.seek(0)
    assert type(torch.load(file, weights_only=True)["w"]) is Tensor
    assert type(copy.deepcopy(weight.detach())) is Tensor
    for parameter in (nn.Parameter(weight.detach()), nn.Parameter(weight.data[0])):
        assert type(parameter) is nn.Parameter
        assert not vars(parameter)
        with torch.no_grad():
            parameter.zero_()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_function_takes_the_value_of_a_product() -> None:
    layer = overparameterize(nn.Linear(3, 2))
    compiled = torch.compile(nn.functional.linear, backend="eager")
    x = torch.ones(1, 3)
    torch.testing.assert_close(compiled(x, layer.weight), x @ layer.weight.mT)


def test_setting_data_sets_the_value_with_shape_and_dtype() -> None:
    torch.manual_seed(0)
    layer = overparameterize(nn.Linear(3, 2, bias=False), 3, width=4)
    factors = list(layer.parameters())
    value = torch.randn(5, 3)
    layer.weight.data = value
    torch.testing.assert_close(layer.weight, value)
    assert all(a is b for a, b in zip(factors, layer.parameters(), strict=True))
    layer.weight.data = value.double()
    assert layer.weight.dtype == torch.float64
    torch.testing.assert_close(collapse(layer).weight.detach(), value.double())
    convolution = overparameterize(nn.Conv2d(2, 3, 3), targets="all")
    with pytest.raises(ValueError, match="change shapes before you overparameterize"):
        convolution.weight.data = torch.ones(4, 2, 3, 3)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRUCell])
def test_layers_that_draw_all_their_parameters_again_are_refused(make: type[nn.Module]) -> None:
    """Recurrent layers reset whatever ``parameters()`` gives: factors would be drawn one by one."""
    layer = overparameterize(make(3, 2))
    before = _values(layer)
    with pytest.raises(RuntimeError, match=f"reset_parameters would write into .* {make.__name__}"):
        layer.reset_parameters()
    assert _same(before, layer)
    with collapsed(layer):
        layer.reset_parameters()
    assert not _same(before, layer)
    collapse(layer).reset_parameters()


def test_arrays_that_share_the_memory_of_a_product_are_read_only() -> None:
    layer = overparameterize(nn.Linear(3, 2))
    for array in (layer.weight.detach().numpy(), np.asarray(layer.weight.data[0])):
        with pytest.raises(ValueError, match="read-only"):
            array *= 2
    copied = np.asarray(layer.weight.detach(), dtype=np.float64)
    copied *= 2
    layer.weight.detach().clone().numpy()[:] = 0


def test_attributes_of_a_weight_are_those_of_its_factors() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.early = 1
    overparameterize(layer)
    assert layer.weight.early == 1
    assert not hasattr(layer.weight, "late")
    layer.weight.late = 2
    assert layer.weight.late == 2
    assert [factor.late for factor in layer.parametrizations.parameters()] == [2, 2]
    assert not hasattr(layer.weight.detach(), "late")
    collapse(layer)
    assert (layer.weight.early, layer.weight.late) == (1, 2)


def test_hooks_on_a_value_are_warned_about_where_nothing_is_computed_with_it() -> None:
    layer = overparameterize(nn.Linear(3, 2))
    with pytest.warns(UserWarning, match="register_hook acts on this value of weight of a Linear"):
        layer.weight.register_hook(lambda gradient: gradient)
    with pytest.warns(UserWarning, match="retain_grad acts on this value"):
        layer.weight.retain_grad()

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight
            weight.register_hook(seen.append)
            return x @ weight.mT

    seen: list[Tensor] = []
    overparameterize(Watched(3, 2))(torch.ones(1, 3)).sum().backward()
    assert len(seen) == 1


def test_what_is_no_value_of_a_product_is_refused() -> None:
    layer = overparameterize(nn.Linear(3, 2))
    before = _values(layer)
    for wrong, message in (
        (3.0, "a float is assigned"),
        (np.ones((2, 3)), "a ndarray is assigned"),
        (torch.ones(2, 3).double(), r"in torch\.float64 is assigned to it; assign value\.to"),
        (TwoTensor(torch.ones(2, 3), torch.ones(2, 3)), "a TwoTensor, a tensor subclass"),
    ):
        with pytest.raises(TypeError, match=message):
            layer.weight = wrong
    twin = nn.Parameter(TwoTensor(torch.ones(2, 3), torch.ones(2, 3)))
    with pytest.raises(RuntimeError, match="weight: the weight is a TwoTensor"):
        layer.load_state_dict({"weight": twin.data}, strict=False)
    assert _same(before, layer)
    with pytest.raises(TypeError, match=r"weight: .* stays plain"), collapsed(layer):
        layer.weight = twin
