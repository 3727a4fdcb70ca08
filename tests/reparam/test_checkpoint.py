"""Checkpoints in both directions, on files alone and through load_state_dict."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from support.unusual_layers import LAYERS, Layer, train, values
from torch import Tensor, nn

from overparam.reparam import (
    collapse,
    collapse_state_dict,
    expand_state_dict,
    overparameterize,
)

EACH = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)


def _pair(layer: Layer) -> tuple[nn.Module, nn.Module, Tensor]:
    """A plain trained model, an overparameterized one with other weights, and an input."""
    torch.manual_seed(0)
    plain, x = layer.make(), layer.inputs()
    train(plain, x)
    torch.manual_seed(1)
    return plain, overparameterize(layer.make(), depth=3, width=1.5, targets="all"), x


def _prefixed(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


@EACH
def test_a_plain_checkpoint_loads(layer: Layer) -> None:
    plain, model, x = _pair(layer)
    factors = list(model.parameters())
    model.load_state_dict(plain.state_dict())
    assert all(a is b for a, b in zip(factors, model.parameters(), strict=True))
    for first, second in zip(values(plain.eval(), x), values(model.eval(), x), strict=True):
        torch.testing.assert_close(second, first)
    collapse(model)
    assert not model._load_state_dict_pre_hooks
    model.load_state_dict(plain.state_dict())


@EACH
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_files_alone(layer: Layer, prefix: str) -> None:
    plain, model, _ = _pair(layer)
    state = _prefixed(plain.state_dict(), prefix)
    expanded = expand_state_dict(state, like=model.state_dict())
    assert sorted(expanded) == sorted(_prefixed(model.state_dict(), prefix))
    assert all(not isinstance(v, Tensor) or v.is_contiguous() for v in expanded.values())
    back = collapse_state_dict(expanded)
    assert sorted(back) == sorted(state)
    for key, value in state.items():
        torch.testing.assert_close(back[key], value)
    if prefix == "":
        model.load_state_dict(expanded)
    collapsed = collapse_state_dict(model.state_dict())
    for key, value in collapse(model).state_dict().items():
        torch.testing.assert_close(collapsed[key], value)


def test_tied_weights_stay_tied_in_a_file() -> None:
    layer = next(layer for layer in LAYERS if layer.name == "tied")
    plain = collapse_state_dict(overparameterize(layer.make(), targets="all").state_dict())
    assert plain["embed.weight"] is plain["head.weight"]


def test_other_parametrizations_are_handed_on() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    before = list(model.state_dict())
    overparameterize(model)
    plain = collapse_state_dict(model.state_dict())
    assert sorted(plain) == sorted(before)


def test_a_checkpoint_of_another_depth_is_refused_with_the_remedy() -> None:
    state = overparameterize(nn.Linear(4, 3), depth=2, width=5).state_dict()
    with pytest.raises(Exception, match="collapse_state_dict"):
        overparameterize(nn.Linear(4, 3), depth=2).load_state_dict(state, strict=False)
    model = overparameterize(nn.Linear(4, 3), depth=3)
    model.load_state_dict(collapse_state_dict(state))


@pytest.mark.parametrize("name", ["original0", "original1"])
def test_an_incomplete_checkpoint_is_refused(name: str) -> None:
    state = overparameterize(nn.Linear(4, 3)).state_dict()
    del state[f"parametrizations.weight.{name}"]
    with pytest.raises(ValueError, match="the file is not complete"):
        collapse_state_dict(state)


def test_wrong_shapes_name_the_key() -> None:
    model = overparameterize(nn.Sequential(nn.Linear(4, 3)))
    wrong = nn.Sequential(nn.Linear(5, 3)).state_dict()
    with pytest.raises(ValueError, match=r"0\.weight has shape \(3, 5\); the factors are for"):
        expand_state_dict(wrong, like=model)
    with pytest.raises(RuntimeError, match=r"size mismatch for 0\.weight"):
        model.load_state_dict(wrong)


def test_like_without_factors_is_refused() -> None:
    with pytest.raises(ValueError, match="like holds no factors"):
        expand_state_dict(nn.Linear(2, 2).state_dict(), like=nn.Linear(2, 2))


def test_a_broken_layout_is_refused() -> None:
    state = overparameterize(nn.Linear(4, 3)).state_dict()
    state["parametrizations.weight.0._extra_state"] = torch.tensor([1, 2], dtype=torch.uint8)
    with pytest.raises(ValueError, match="holds no layout"):
        collapse_state_dict(state)


def test_a_plain_half_precision_checkpoint_is_factored_in_the_model_dtype() -> None:
    plain = nn.Linear(6, 5).half().state_dict()
    model = overparameterize(nn.Linear(6, 5))
    model.load_state_dict(plain)
    torch.testing.assert_close(model.weight, plain["weight"].float(), rtol=0, atol=1e-6)
