"""Going back to plain weights: all or nothing, whatever happens on the way."""

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.unusual_layers import train
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from overparam.reparam import (
    collapse,
    collapse_state_dict,
    collapsed,
    expand_state_dict,
    overparameterize,
)
from overparam.reparam.attach import places


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def _enter(model: nn.Module) -> None:
    with collapsed(model):
        pass


@pytest.mark.parametrize("change", [collapse, _enter])
def test_one_obstacle_stops_it_before_anything_changes(
    change: Callable[[nn.Module], Any],
) -> None:
    model = overparameterize(_model())
    nn.utils.parametrizations.spectral_norm(model[2])
    before = list(model.state_dict())
    with pytest.raises(RuntimeError, match=r"2\.weight has a further parametrization"):
        change(model)
    assert list(model.state_dict()) == before


def test_factors_come_back_after_an_error_inside() -> None:
    model = overparameterize(_model())
    factors = list(model.parameters())
    with pytest.raises(KeyError, match="user"), collapsed(model):
        {}["user"]
    assert all(a is b for a, b in zip(factors, model.parameters(), strict=True))


def test_an_error_of_the_plain_model_undoes_the_collapse() -> None:
    class Picky(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if "weight" in self._parameters:
                raise OSError("plain")
            return super().forward(x)

    model = overparameterize(Picky(3, 2))
    with pytest.raises(OSError, match="plain"):
        collapse(model, example_inputs=[torch.ones(1, 3)])
    assert len(list(places(model))) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_factors_follow_a_model_that_changes_its_dtype(dtype: torch.dtype) -> None:
    model = overparameterize(_model())
    before = [factor.detach().to(dtype) for factor in model.parameters()]
    with collapsed(model):
        model.to(dtype)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model(torch.ones(1, 4, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(3, 4), r"0\.weight: .* dead.* stays plain"),
        (lambda: torch.ones(5, 4), r"0\.weight has the shape \(5, 4\) now.* stays plain"),
        (lambda: torch.ones(3, 4, device="meta"), r"0\.weight: .*meta device.* stays plain"),
    ],
)
def test_weights_that_factors_cannot_hold_stay_plain(
    make: Callable[[], Tensor], message: str
) -> None:
    model = overparameterize(_model())
    with pytest.raises(ValueError, match=message), collapsed(model):
        model[0].weight = nn.Parameter(make())
    # None or all: the other layer, whose weight could go back, is plain too.
    assert list(model.state_dict()) == list(_model().state_dict())


def test_a_dead_weight_is_refused_wherever_it_comes_from() -> None:
    model = overparameterize(_model())
    plain = _model()
    nn.init.zeros_(plain[0].weight)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"0\.weight: .* dead"):
        model.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match=r"0\.weight: .* dead"):
        expand_state_dict(plain.state_dict(), like=model)
    with pytest.raises(ValueError, match="dead"):
        model[0].weight = torch.zeros(3, 4)
    for name, factor in model[0].parametrizations.named_parameters():
        assert torch.equal(factor, before[f"0.parametrizations.{name}"])


def test_a_narrow_product_says_why_it_takes_no_plain_weight() -> None:
    model = overparameterize(nn.Linear(4, 3), width=2, init="near_zero")
    with pytest.raises(RuntimeError, match="a hidden width of 2 cannot hold this weight"):
        model.load_state_dict(nn.Linear(4, 3).state_dict())


def test_inference_mode_leaves_trainable_weights() -> None:
    model, x = overparameterize(nn.Sequential(nn.Linear(4, 3), nn.LSTM(3, 2))), torch.ones(1, 4)
    with torch.inference_mode(), collapsed(model):
        model(x)
    train(model, x)
    with torch.inference_mode():
        collapse(model)
    assert not model[0].weight.is_inference()
    train(model, x)


def test_one_tensor_is_one_example_input() -> None:
    collapse(overparameterize(nn.Linear(3, 2)), example_inputs=torch.ones(4, 3))


class Masking(nn.Module):
    """Draws from the generators of numpy and Python, as some models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.linear(x)
        mask = torch.from_numpy(np.random.rand(*x.shape) > 0.5)  # noqa: NPY002
        return self.linear(x) * mask * random.random()


def test_verification_repeats_every_source_of_random_numbers() -> None:
    model = overparameterize(Masking())
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    state = random.getstate(), np.random.get_state()  # noqa: NPY002
    collapse(model, example_inputs=torch.randn(5, 3))
    assert random.getstate() == state[0]
    assert np.random.get_state()[2] == state[1][2]  # noqa: NPY002


def test_verification_leaves_modes_and_statistics_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[2].eval()
    overparameterize(model)
    buffers = [buffer.clone() for buffer in model.buffers()]
    collapse(model, example_inputs=torch.randn(5, 3))
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))


def test_wrappers_that_hand_on_attributes_are_seen_through() -> None:
    plain = nn.Linear(4, 3)
    model = nn.Sequential(checkpoint_wrapper(overparameterize(copy.deepcopy(plain))))
    compiled = torch.compile(overparameterize(copy.deepcopy(plain)), backend="eager")
    x = torch.ones(2, 4)
    for wrapped, name in (
        (model, "0._checkpoint_wrapped_module.weight"),
        (compiled, "_orig_mod.weight"),
    ):
        assert [place.name for place in places(wrapped)] == [name]
        train(wrapped, x)
        expected = wrapped(x)
        assert len(collapse_state_dict(wrapped.state_dict())) == 2
        collapse(wrapped, example_inputs=x)
        torch.testing.assert_close(wrapped(x), expected)
    assert sorted(model.state_dict()) == ["0.bias", "0.weight"]


def test_whole_models_pickle_while_plain() -> None:
    model = overparameterize(nn.Sequential(nn.Linear(4, 3), nn.LSTM(3, 2)), targets="all")
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(model)
    with collapsed(model):
        twin = pickle.loads(pickle.dumps(model))
    collapse(model)
    for (name, first), second in zip(
        model.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert torch.equal(first, second), name
    assert [type(module) for module in twin.modules()] == [type(m) for m in model.modules()]


def test_attributes_of_parameters_are_kept() -> None:
    model = nn.Linear(3, 2)
    model.weight.no_weight_decay = True  # pyright: ignore
    overparameterize(model)
    factors = model.parametrizations.weight.parameters()  # pyright: ignore
    assert all(factor.no_weight_decay for factor in factors)
    collapse(model)
    assert model.weight.no_weight_decay  # pyright: ignore


def test_layouts_can_be_multiplied_out_without_memory() -> None:
    state = overparameterize(_model()).state_dict()
    empty = {k: v.to("meta") if "original" in k else v for k, v in state.items()}
    plain = collapse_state_dict(empty)
    assert {k: tuple(v.shape) for k, v in plain.items()} == {
        k: tuple(v.shape) for k, v in _model().state_dict().items()
    }


def _embedding_and_head() -> nn.ModuleDict:
    return nn.ModuleDict({"e": nn.Embedding(5, 3), "h": nn.Linear(3, 5, bias=False)})


def test_ties_made_while_collapsed_share_factors_afterwards() -> None:
    model = overparameterize(_embedding_and_head(), targets="all")
    embedding, head = model["e"], model["h"]
    kept = list(embedding.parameters())
    with collapsed(model):
        head.weight = embedding.weight
    assert head.parametrizations.weight is embedding.parametrizations.weight
    assert all(a is b for a, b in zip(kept, model.parameters(), strict=True))
    with collapsed(model):
        assert head.weight is embedding.weight
    # A new parameter for both, as libraries make that resize.
    value = torch.randn(5, 3)
    with collapsed(model):
        head.weight = embedding.weight = nn.Parameter(value)
    torch.testing.assert_close(head.weight, value)
    assert len(list(model.parameters())) == 2
    assert collapse(model)["h"].weight is embedding.weight


def test_weights_untied_while_collapsed_get_factors_of_their_own() -> None:
    model = _embedding_and_head()
    model["h"].weight = model["e"].weight
    overparameterize(model, targets="all")
    kept, before, value = list(model.parameters()), model["e"].weight.clone(), torch.randn(5, 3)
    with collapsed(model):
        model["h"].weight = nn.Parameter(value)
    torch.testing.assert_close(model["h"].weight, value)
    torch.testing.assert_close(model["e"].weight, before)
    assert all(a is b for a, b in zip(kept, model["e"].parameters(), strict=True))
    assert len(list(model.parameters())) == 4
    assert len(collapse_state_dict(model.state_dict())) == 2


@pytest.mark.parametrize("to_plain", [True, False])
def test_a_tie_to_what_is_no_product_is_not_undone_silently(to_plain: bool) -> None:
    model = overparameterize(_embedding_and_head())  # the head alone
    first, second = ("h", "e") if to_plain else ("e", "h")

    def tie() -> None:
        with collapsed(model):
            model[first].weight = model[second].weight

    with pytest.raises(ValueError, match=r"h\.weight was tied to e\.weight, which is no product"):
        tie()
    assert model["h"].weight is model["e"].weight
    assert len(list(model.parameters())) == 1


def test_hooks_that_sleep_while_factors_are_back_are_named() -> None:
    model = overparameterize(nn.Linear(3, 2))
    with pytest.warns(UserWarning, match=r"hooks on weight \(gradient hook\)"), collapsed(model):
        handle = model.weight.register_hook(lambda gradient: gradient)
    with collapsed(model):
        handle.remove()
