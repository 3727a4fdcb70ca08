"""A product in the place of a parameter: what reads, writes, ties and hangs on one still does."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.testing._internal.two_tensor import TwoTensor

from overparam.reparam import collapse, collapsed, overparameterize
from overparam.reparam.access import KNOWS_CALLERS
from overparam.reparam.attach import factors_of, places


def _unbalanced(layer: nn.Module) -> nn.Module:
    """With factors as training leaves them."""
    overparameterize(layer, targets="all")
    with torch.no_grad():
        for place in places(layer):
            first, *_, last = factors_of(place.factors)
            first.mul_(4)
            last.div_(4)
    return layer


def _values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def _same(before: list[Tensor], model: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("as_parameter", [False, True])
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 2)), torch.ones(4, 3)),
        (lambda: nn.Sequential(nn.Conv2d(2, 3, 3)), torch.ones(1, 2, 4, 4)),
        (lambda: nn.Sequential(nn.LSTM(3, 2)), torch.ones(4, 3)),
        (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), torch.randn(3, 2, 4)),
    ],
    ids=["linear", "convolution", "lstm", "encoder"],
)
def test_functional_call_with_plain_names(
    make: Callable[[], nn.Module], x: Tensor, as_parameter: bool
) -> None:
    torch.manual_seed(0)
    plain, model = make(), _unbalanced(make())
    before = _values(model)
    names = [place.name for place in places(model)]
    given = {n: p.detach().clone().requires_grad_() for n, p in plain.named_parameters()}
    if as_parameter:
        given = {n: nn.Parameter(p.detach()) for n, p in given.items()}

    def output(module: nn.Module) -> Tensor:
        result = functional_call(module, given, (x,))
        return result[0] if isinstance(result, tuple) else result

    expected, found = output(collapse(copy.deepcopy(model))), output(model)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected.square().sum(), [given[n] for n in names])
    gradients = torch.autograd.grad(found.square().sum(), [given[n] for n in names])
    for first, second in zip(wanted, gradients, strict=True):
        torch.testing.assert_close(first, second)
    assert _same(before, model)
    assert all(place.factors.stand_ins == 0 for place in places(model))
    result = model(x)
    (result[0] if isinstance(result, tuple) else result).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "original" in n)


def test_functional_calls_nest_fail_and_transform() -> None:
    torch.manual_seed(0)
    model, x = _unbalanced(nn.Linear(3, 2, bias=False)), torch.randn(4, 3)
    before, value = _values(model), model(x).detach()
    ones, twos = torch.ones(2, 3), 2 * torch.ones(2, 3)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model

        def forward(self, x: Tensor) -> Tensor:
            inner = functional_call(self.layer, {"weight": twos}, (x,))
            torch.testing.assert_close(inner, x @ twos.mT)
            return self.layer(x)

    torch.testing.assert_close(functional_call(Outer(), {"layer.weight": ones}, (x,)), x @ ones.mT)
    with pytest.raises(RuntimeError, match="shapes"):
        functional_call(model, {"weight": torch.ones(2, 7)}, (x,))
    torch.testing.assert_close(model(x).detach(), value)
    stacked = torch.stack([ones, twos])
    batched = torch.vmap(lambda w: functional_call(model, {"weight": w}, (x,)))(stacked)
    torch.testing.assert_close(batched, torch.stack([x @ ones.mT, x @ twos.mT]))
    loss = lambda w: functional_call(model, {"weight": w}, (x,)).square().sum()  # noqa: E731
    torch.testing.assert_close(torch.func.grad(loss)(ones), 2 * (x @ ones.mT).mT @ x)
    hessian = torch.func.jacrev(torch.func.grad(loss))(ones)
    torch.testing.assert_close(hessian[0, :, 0], 2 * x.mT @ x)
    assert _same(before, model)
    torch.testing.assert_close(model(x).detach(), value)


def test_a_tied_weight_is_given_at_all_its_places() -> None:
    from support.unusual_layers import Tied

    torch.manual_seed(0)
    plain = Tied()
    model, tokens = overparameterize(copy.deepcopy(plain), targets="all"), torch.tensor([[1, 2]])
    weight = torch.randn(7, 4)
    expected = functional_call(plain, {"embed.weight": weight}, (tokens,))
    torch.testing.assert_close(
        functional_call(model, {"embed.weight": weight}, (tokens,)), expected
    )


# The compiler of torch 2.9 looks there.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_functional_call_of_a_compiled_model() -> None:
    model, x = _unbalanced(nn.Linear(3, 2, bias=False)), torch.randn(4, 3)
    before, compiled = _values(model), torch.compile(model, backend="eager")
    value, weight = compiled(x).detach(), torch.randn(2, 3, requires_grad=True)
    output = functional_call(compiled, {"_orig_mod.weight": weight}, (x,))
    torch.testing.assert_close(output, x @ weight.mT)
    output.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(compiled(x).detach(), value)
    whole = torch.compile(lambda w: functional_call(model, {"weight": w}, (x,)), backend="eager")
    if KNOWS_CALLERS:
        torch.testing.assert_close(whole(weight), x @ weight.mT)
    else:
        with pytest.raises(Exception, match=r"Use torch 2\.13 or newer"):
            whole(weight)
    torch.testing.assert_close(model(x).detach(), value)
    assert _same(before, model)


def _pair(first: bool, second: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    embedding, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    for layer, chosen in ((embedding, first), (head, second)):
        if chosen:
            overparameterize(layer, targets="all")
    return embedding, head


def test_tying_products_by_assignment_ties() -> None:
    embedding, head = _pair(True, True)
    head.weight = embedding.weight
    assert head.parametrizations.weight is embedding.parametrizations.weight
    model = nn.ModuleList([embedding, head])
    assert len(list(model.parameters())) == 2
    with torch.no_grad():
        factors_of(next(places(embedding)).factors)[0].mul_(2)
    assert torch.equal(head.weight, embedding.weight)
    collapse(model)
    assert head.weight is embedding.weight
    wrong = overparameterize(nn.Linear(4, 6))
    with pytest.raises(ValueError, match=r"shape \(6, 4\) and cannot be tied to one of shape"):
        wrong.weight = _pair(True, False)[0].weight


def test_tying_to_a_plain_parameter_ties_and_the_other_way_round_is_refused() -> None:
    embedding, head = _pair(False, True)
    head.weight = embedding.weight
    assert head.weight is embedding.weight
    assert type(head) is nn.Linear
    embedding, head = _pair(True, False)
    before = head.weight
    with pytest.raises(TypeError, match="cannot assign"):
        head.weight = embedding.weight
    assert head.weight is before


def test_a_parameter_takes_the_place_of_the_product_and_a_tensor_is_its_value() -> None:
    layer, twin = overparameterize(nn.Linear(3, 2)), None
    factors = list(layer.parametrizations.parameters())
    twin = copy.deepcopy(layer)
    layer.weight = torch.ones(2, 3)
    assert [id(f) for f in factors] == [id(f) for f in layer.parametrizations.parameters()]
    torch.testing.assert_close(layer.weight, torch.ones(2, 3))
    parameter = nn.Parameter(torch.ones(5, 3))
    layer.weight = parameter
    assert layer.weight is parameter
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert len(list(places(twin))) == 1  # a copy shares the class
    assert twin(torch.ones(1, 3)).shape == (1, 2)
    twin.weight = None
    assert twin.weight is None
    with pytest.raises(ValueError, match=r"of shape \(5, 3\) is assigned to a product of shape"):
        overparameterize(nn.Linear(3, 2)).weight = torch.ones(5, 3)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_fuses_with_its_norm(groups: int) -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(4, 4, 3, groups=groups), nn.BatchNorm2d(4)
    norm(torch.randn(8, 4, 2, 2))
    overparameterize(convolution, targets="all")
    x = torch.randn(1, 4, 5, 5)
    convolution.eval(), norm.eval()
    fused = fuse_conv_bn_eval(convolution, norm)
    torch.testing.assert_close(fused(x), norm(convolution(x)))
    assert isinstance(fused.weight, nn.Parameter)
    assert len(list(places(convolution))) == 1


def test_tensor_subclasses_are_skipped_by_name() -> None:
    layer = nn.Linear(3, 2)
    layer.weight = nn.Parameter(TwoTensor(torch.ones(2, 3), torch.ones(2, 3)))
    with pytest.raises(ValueError, match="weight: it is a TwoTensor, a tensor subclass"):
        overparameterize(layer)

    class Marked(nn.Parameter):
        pass

    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[0].weight = Marked(torch.ones(2, 3))
    kept = model[0].weight
    overparameterize(model)
    assert [place.name for place in places(model)] == ["1.weight"]
    assert model[0].weight is kept


def test_hooks_are_named_before_they_are_lost() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[1].weight.register_hook(lambda gradient: gradient)
    model[1].weight.register_post_accumulate_grad_hook(lambda parameter: None)
    with pytest.warns(UserWarning, match=r"1\.weight \(gradient hook and post-accumulate"):
        overparameterize(model)
    factor = factors_of(next(places(model)).factors)[1]
    with collapsed(model):  # the factors come back with all that hangs on them
        pass
    factor.register_hook(lambda gradient: gradient)
    with pytest.warns(UserWarning, match=r"hooks on 0\.weight \(factor 2\) \(gradient hook\)"):
        collapse(model)


def test_accumulated_gradients_go_both_ways() -> None:
    torch.manual_seed(0)
    plain, x = (
        nn.Sequential(nn.Linear(4, 3), nn.Conv1d(3, 2, 1)).double(),
        torch.randn(3, 4).double(),
    )
    (plain[1](plain[0](x)[..., None]).square().sum()).backward()
    gradients = {name: p.grad.clone() for name, p in plain.named_parameters()}
    model = copy.deepcopy(plain)
    for first, second in zip(model.parameters(), plain.parameters(), strict=True):
        first.grad = second.grad.clone()
    overparameterize(model, 3, targets="all")
    fresh = overparameterize(copy.deepcopy(plain), 3, targets="all")
    (fresh[1](fresh[0](x)[..., None]).square().sum()).backward()
    for first, second in zip(model.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad)
    with collapsed(model):
        (model[1](model[0](x)[..., None]).square().sum()).backward()
    for first, second in zip(model.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(first.grad, 2 * second.grad)
    collapse(model)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * gradients[name])


def test_flags_and_attributes_set_meanwhile_are_carried() -> None:
    layer = nn.Linear(3, 2)
    overparameterize(layer)
    for factor in layer.parametrizations.parameters():
        factor.no_decay = True
    with collapsed(layer):
        assert layer.weight.no_decay
        layer.weight.requires_grad_(False)
    assert not any(f.requires_grad for f in layer.parametrizations.parameters())
    collapse(layer)
    assert not layer.weight.requires_grad
    assert layer.weight.no_decay


FORMATS = [
    (lambda g: nn.Conv2d(4, 4, 3, groups=g), torch.channels_last, (1, 4, 5, 5)),
    (lambda g: nn.Conv3d(4, 4, 2, groups=g), torch.channels_last_3d, (1, 4, 3, 3, 3)),
    (lambda g: nn.ConvTranspose2d(4, 4, 3, groups=g), torch.channels_last, (1, 4, 5, 5)),
]


@pytest.mark.parametrize("strategy", ["matrix", "sides", "kernels"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("make", "memory_format", "shape"), FORMATS)
@pytest.mark.parametrize("late", [False, True])
def test_channels_last(
    make: Any,
    memory_format: torch.memory_format,
    shape: Any,
    groups: int,
    strategy: str,
    late: bool,
) -> None:
    torch.manual_seed(0)
    model, x = make(groups).double(), torch.randn(shape).double()
    before = model(x).detach()
    if not late:
        model.to(memory_format=memory_format)
    overparameterize(model, targets="all", strategy=strategy)
    if late:
        model.to(memory_format=memory_format)
    torch.testing.assert_close(model(x.to(memory_format=memory_format)).detach(), before)
    assert model.weight.is_contiguous(memory_format=memory_format)
    with collapsed(model):
        assert model.weight.is_contiguous(memory_format=memory_format)
        model.to(memory_format=torch.contiguous_format)
    assert model.parametrizations.weight[0].memory_format is torch.contiguous_format
    model.to(memory_format=memory_format)
    collapse(model)
    assert model.weight.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_assigned_checkpoints_bring_their_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 3), nn.LSTM(3, 2)).to(dtype)
    model = overparameterize(nn.Sequential(nn.Linear(4, 3), nn.LSTM(3, 2)), targets="all")
    model.load_state_dict(plain.state_dict(), assign=True)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    torch.testing.assert_close(
        model[0].weight, plain[0].weight, rtol=0, atol=4 * torch.finfo(dtype).eps
    )
    model.load_state_dict(plain.float().state_dict())
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    model.load_state_dict(overparameterize(plain, targets="all").state_dict(), assign=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with pytest.raises(RuntimeError, match=r"0\.weight: .*floating"):
        model.load_state_dict({"0.weight": torch.ones(3, 4).int()}, strict=False, assign=True)


def test_a_plain_checkpoint_materializes_a_model_on_the_meta_device() -> None:
    model = overparameterize(nn.Linear(4, 3)).to("meta")
    plain = nn.Linear(4, 3)
    model.load_state_dict(plain.state_dict(), assign=True)
    torch.testing.assert_close(model.weight, plain.weight)
