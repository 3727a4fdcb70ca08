"""Models on the meta device, and parameters that a process holds in parts."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.inner_cases import (
    HALF,
    STEPS,
    WRAPPERS,
    advance,
    assert_same,
    contents,
    in_one_piece,
    network,
    started,
    wrapped,
)
from torch.distributed.fsdp import FullyShardedDataParallel

every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)
every_inner = pytest.mark.parametrize("inner", ["AdamW", "AdamWScheduleFree", "Lamb"])


@pytest.fixture
def swapping() -> Iterator[None]:
    """torch keeps the identity of parameters that go from the meta device to another."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.usefixtures("swapping")
@every_inner
@every_wrapper
def test_made_on_the_meta_device_and_filled_later(wrapper: str, inner: str) -> None:
    model = network(device="meta")
    optimizer = wrapped(wrapper, inner, model)
    repr(optimizer)
    str(optimizer.routing())
    model.to_empty(device="cpu")
    model.load_state_dict(network().state_dict())
    advance(model, optimizer, range(STEPS))
    found, expected = contents(model, optimizer), in_one_piece(wrapper, inner)
    if wrapper == "Factored":  # which rounds the weights to products when it is made
        assert set(found) == set(expected)
        for name in model.state_dict():
            torch.testing.assert_close(found[f"weight {name}"], expected[f"weight {name}"])
    else:
        assert_same(found, expected)


@pytest.mark.usefixtures("swapping")
@every_inner
@every_wrapper
def test_made_on_the_meta_device_and_resumed(wrapper: str, inner: str) -> None:
    before, saving = started(wrapper, inner)
    advance(before, saving, range(HALF))
    model = network(device="meta")
    optimizer = wrapped(wrapper, inner, model)
    model.to_empty(device="cpu")
    model.load_state_dict(before.state_dict())
    optimizer.load_state_dict(saving.state_dict())
    advance(model, optimizer, range(HALF, STEPS))
    assert_same(contents(model, optimizer), in_one_piece(wrapper, inner))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@every_wrapper
def test_parts_of_parameters_are_refused(wrapper: str) -> None:
    kinds: dict[str, torch.nn.Module] = {}
    for original in (False, True):
        with warnings.catch_warnings(action="ignore"):  # of one process, which shards nothing
            kinds[f"is a flat shard{'' if original else ' of'}"] = FullyShardedDataParallel(
                network(), device_id=torch.device("cpu"), use_orig_params=original
            )
    for words, model in kinds.items():
        for params in (model, model.parameters(), [{"params": model.parameters()}]):
            with pytest.raises(ValueError, match=words):
                WRAPPERS[wrapper](params, lr=0.01)
    optimizer = WRAPPERS[wrapper](network().parameters(), lr=0.01)
    for words, model in kinds.items():
        with pytest.raises(ValueError, match=words):
            optimizer.add_param_group({"params": list(model.parameters())})
    assert len(optimizer.param_groups) == 1


@pytest.mark.usefixtures("one_process")
@every_wrapper
@pytest.mark.parametrize("steps", [0, 1])
def test_parameters_that_are_cut_in_parts_later_are_refused(wrapper: str, steps: int) -> None:
    model = network()
    optimizer = WRAPPERS[wrapper](model, lr=0.01)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for _ in range(steps):
        optimizer.step()
    with warnings.catch_warnings(action="ignore"):
        FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)
    with pytest.raises(ValueError, match=r"0\.weight is a flat shard of"):
        optimizer.step()
