"""What people do to models around training: compile, export, autocast, checkpointing, saving."""

import copy
import io
import warnings

import pytest
import torch
from support.unusual_layers import SelfAttention, train
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from overparam.reparam import collapse, collapse_state_dict, collapsed, overparameterize
from overparam.reparam.attach import factors_of, places


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


def _input() -> Tensor:
    return torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def _gradients(model: nn.Module, forward: object = None) -> list[Tensor]:
    model.zero_grad()
    (forward or model)(_input()).square().sum().backward()  # pyright: ignore
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("strategy", ["matrix", "sides"])
def test_compile_in_one_graph(strategy: str) -> None:
    model = overparameterize(_model(), targets="all", strategy=strategy)
    expected = _gradients(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for first, second in zip(expected, _gradients(model, compiled), strict=True):
        torch.testing.assert_close(second, first)


@pytest.mark.parametrize(
    ("layer", "count"),
    [(SelfAttention(8, 2, batch_first=True), 2), (nn.LSTM(8, 3), 2)],
    ids=["attention", "lstm"],
)
def test_products_are_formed_once_for_a_pass(layer: nn.Module, count: int) -> None:
    model = overparameterize(copy.deepcopy(layer), targets="all")
    formed = []
    for place in places(model):
        place.factors.register_forward_hook(lambda *_: formed.append(None))
    model(torch.randn(3, 2, 8))
    assert len(formed) == count
    before = copy.deepcopy(model.state_dict())
    train(model, torch.randn(3, 2, 8))
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_attention_compiles_in_one_graph() -> None:
    model = overparameterize(SelfAttention(8, 2, batch_first=True))
    x = torch.randn(2, 3, 8)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], model(x)[0])


def test_export_of_the_collapsed_model() -> None:
    model = overparameterize(_model(), targets="all").eval()
    with collapsed(model):
        program = torch.export.export(model, (_input(),))
    assert sorted(program.state_dict) == ["0.bias", "0.weight", "3.bias", "3.weight"]
    torch.testing.assert_close(program.module()(_input()), model(_input()))


def test_product_is_exact_under_autocast() -> None:
    model = overparameterize(_model(), depth=3, targets="all")
    plain = {place.name: getattr(place.module, place.attribute).clone() for place in places(model)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for place in places(model):
            weight = getattr(place.module, place.attribute)
            assert weight.dtype == torch.float32
            assert torch.equal(weight, plain[place.name])
        output = model(_input())
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_factors_are_multiplied_in_float32(dtype: torch.dtype) -> None:
    layer = overparameterize(nn.Linear(64, 48).to(dtype))
    first, second = factors_of(next(places(layer)).factors)
    assert layer.weight.dtype == dtype
    assert torch.equal(layer.weight, (second.float() @ first.float()).to(dtype))
    layer.double()
    assert layer.weight.dtype == torch.float64


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    model = overparameterize(_model(), targets="all")
    expected = _gradients(model)

    def forward(x: Tensor) -> Tensor:
        return checkpoint(model, x.requires_grad_(), use_reentrant=reentrant)  # pyright: ignore

    for first, second in zip(expected, _gradients(model, forward), strict=True):
        assert torch.equal(first, second)


def test_save_and_load_resumes_training_exactly() -> None:
    model = overparameterize(_model(), targets="all")
    train(model, _input())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = overparameterize(_model(), targets="all")
    other.load_state_dict(state)
    train(model, _input())
    train(other, _input())
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)
    plain = _model()
    plain.load_state_dict(collapse_state_dict(model.state_dict()))
    torch.testing.assert_close(plain(_input()), model(_input()))


def test_functional_call_and_vmap_over_factors() -> None:
    model = overparameterize(nn.Linear(4, 3))
    stacked = {k: torch.stack([v, 2 * v]) for k, v in model.named_parameters()}
    x = torch.randn(2, 4)
    result = torch.vmap(lambda p: torch.func.functional_call(model, p, (x,)))(stacked)
    torch.testing.assert_close(result[0], model(x))


def test_moving_a_recurrent_layer_keeps_it_alive() -> None:
    model = overparameterize(nn.LSTM(4, 3), targets="all").double()
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    model(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    twin = copy.deepcopy(model)
    collapse(twin)
    torch.testing.assert_close(twin(x)[0], model(x)[0])


def test_wrapped_models_are_refused() -> None:
    import torch.distributed as dist

    store = dist.HashStore()
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        parallel = nn.parallel.DistributedDataParallel(_model())
        with pytest.raises(RuntimeError, match="overparameterize the plain model first"):
            overparameterize(parallel)
        sharded = _model()
        torch.distributed.fsdp.fully_shard(sharded)
        with pytest.raises(
            RuntimeError, match="sharded by fully_shard; overparameterize the plain"
        ):
            overparameterize(sharded)
        right = overparameterize(_model())
        torch.distributed.fsdp.fully_shard(right)
        with pytest.raises(RuntimeError, match="take its full state_dict"):
            collapse(right)
        with pytest.raises(RuntimeError, match="take its full state_dict"), collapsed(right):
            pass
        with pytest.raises(RuntimeError, match=r"sharded; pass .* through .*expand_state_dict"):
            right.load_state_dict(_model().state_dict())
        with warnings.catch_warnings(action="ignore"):  # of one process, which shards nothing
            older = torch.distributed.fsdp.FullyShardedDataParallel(
                _model(), device_id=torch.device("cpu")
            )
        with pytest.raises(RuntimeError, match="FullyShardedDataParallel; overparameterize the"):
            overparameterize(older)
    finally:
        dist.destroy_process_group()
