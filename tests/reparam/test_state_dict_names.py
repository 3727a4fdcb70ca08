"""A conversion of a checkpoint that does nothing, or half, names the entries and stops."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from support.unusual_layers import Tied
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, parametrize

from overparam.reparam import (
    collapse,
    collapse_state_dict,
    expand_state_dict,
    overparameterize,
)


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()))


def _in_the_middle(model: nn.Sequential) -> nn.Module:
    model[1] = torch.compile(checkpoint_wrapper(model[1]), backend="eager")
    return model


WRAPPERS: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "none": lambda model: model,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "parallel": lambda model: nn.DataParallel(model),
    "in the middle": _in_the_middle,
    "all": lambda model: nn.DataParallel(torch.compile(_in_the_middle(model), backend="eager")),
}


def _raw(model: nn.Module) -> dict[str, Tensor]:
    """Entries by the names of the modules, which wrappers of checkpoints hide in a state_dict."""
    state = dict(model.named_parameters())
    for path, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            state[f"{path}._extra_state"] = module.get_extra_state()
    return state


@pytest.mark.parametrize("file", WRAPPERS)
@pytest.mark.parametrize("like", WRAPPERS)
@pytest.mark.parametrize("entries", [lambda m: m.state_dict(), _raw], ids=["state", "raw"])
def test_names_of_wrappers_anywhere(file: str, like: str, entries: Any) -> None:
    plain = WRAPPERS[file](_model())
    target = WRAPPERS[like](overparameterize(_model()))
    expanded = expand_state_dict(entries(plain), like=target)
    assert sum("original" in key for key in expanded) == 4
    back = collapse_state_dict(expanded)
    assert sorted(back) == sorted(entries(plain))
    for key, value in entries(plain).items():
        torch.testing.assert_close(back[key], value.detach())
    by_file = expand_state_dict(entries(plain), like=entries(target))
    assert list(by_file) == list(expanded)


def _without(state: Mapping[str, Any], part: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if part not in key}


def test_expanding_nothing_or_half_is_refused() -> None:
    model, plain = overparameterize(_model()), _model().state_dict()
    with pytest.raises(ValueError, match=r"no entry for 0\.weight, 1\.0\.weight.* it holds net\.0"):
        expand_state_dict({f"net.{key}": value for key, value in plain.items()}, like=model)
    with pytest.raises(ValueError, match=r"no entry for 1\.0\.weight, which"):
        expand_state_dict(_without(plain, "1.0"), like=model)
    with pytest.raises(ValueError, match=r"no entry for 0\.weight.* it holds nothing"):
        expand_state_dict({}, like=model)
    with pytest.raises(ValueError, match=r"0\.weight.* it holds model, step"):
        expand_state_dict({"model": plain, "step": 3}, like=model)
    with pytest.raises(ValueError, match=r"0\.weight and module\.0\.weight are one weight"):
        expand_state_dict({**plain, "module.0.weight": plain["0.weight"]}, like=model)
    mixed = {**_without(plain, "0.weight"), **model.state_dict()}
    mixed["1.0.weight"] = plain["1.0.weight"]
    del mixed["1.0.parametrizations.weight.0._extra_state"]
    with pytest.raises(ValueError, match=r"factors of 1\.0\.weight have no layout"):
        expand_state_dict(mixed, like=model)


def test_half_a_file_of_factors_is_handed_on_with_the_rest_expanded() -> None:
    model, plain = overparameterize(_model()), _model().state_dict()
    half = {**_without(model.state_dict(), "1.0.param"), "1.0.weight": plain["1.0.weight"]}
    model.load_state_dict(expand_state_dict(half, like=model))


def test_one_name_of_a_tied_weight_is_enough() -> None:
    plain, model = Tied(), overparameterize(Tied(), targets="all")
    state = _without(plain.state_dict(), "head")
    for like in (model, model.state_dict()):
        expanded = expand_state_dict(state, like=like)
        assert sorted(expanded) == sorted(_without(model.state_dict(), "head"))


def test_factors_without_their_layout_are_refused_and_other_parametrizations_are_not() -> None:
    for settings in ({}, {"depth": 3}, {"targets": "all", "strategy": "sides"}):
        model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 4, 1), nn.Flatten())
        overparameterize(model, **settings)
        with pytest.raises(ValueError, match=r"factors of 0\.weight, 1\.weight have no layout"):
            collapse_state_dict(dict(model.named_parameters()))
        with pytest.raises(ValueError, match=r"factors of 0\.weight have no layout"):
            collapse_state_dict(_without(model.state_dict(), "0.parametrizations.weight.0"))
    for layer in (nn.Linear(3, 3), nn.Linear(1, 3), nn.Linear(3, 1), nn.Conv2d(3, 3, 3)):
        for dim in (0, 1):
            state = parametrizations.weight_norm(layer, dim=dim).state_dict()
            assert list(collapse_state_dict(state)) == list(state)
            parametrize.remove_parametrizations(layer, "weight")
    model = overparameterize(_model())
    state = _without(model.state_dict(), "0.parametrizations.weight.original")
    with pytest.raises(ValueError, match=r"factors \[\] of 0\.weight.* not complete"):
        collapse_state_dict(state)
    with pytest.raises(ValueError, match=r"in the entry \['model'\], not at the top"):
        collapse_state_dict({"model": model.state_dict(), "step": 3})


class Doubled(nn.Module):
    """Leaves no entry of its own in a checkpoint."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize("spectral", [False, True])
def test_a_further_parametrization_is_refused_by_every_converter(spectral: bool) -> None:
    model = overparameterize(nn.Sequential(nn.Linear(4, 4)))
    clean = model.state_dict()
    if spectral:
        parametrizations.spectral_norm(model[0])
    else:
        parametrize.register_parametrization(model[0], "weight", Doubled())
    kind = "_SpectralNorm" if spectral else "Doubled"
    match = rf"0\.weight has a further parametrization on top of the product \({kind}"
    with pytest.raises(ValueError, match=match):
        collapse_state_dict(model.state_dict())
    plain = nn.Sequential(nn.Linear(4, 4)).state_dict()
    for like in (model, model.state_dict()):
        with pytest.raises(ValueError, match=match):
            expand_state_dict(plain, like=like)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=match):
        model.load_state_dict(plain, strict=False)
    model.load_state_dict(before)
    with pytest.raises(RuntimeError, match="further parametrization"):
        collapse(model)
    if not spectral:
        with pytest.raises(RuntimeError, match="further parametrization"):
            model[0].weight.data = torch.ones(4, 4)
        model.load_state_dict(clean)


def test_a_checkpoint_on_a_deeper_level_and_one_that_is_none() -> None:
    model = overparameterize(_model())
    file = {"epoch": 1, "loops": {"fit": {"model": model.state_dict()}}}
    for convert in (collapse_state_dict, lambda file: expand_state_dict(file, like=model)):
        with pytest.raises(ValueError, match=r"pass checkpoint\['loops'\]\['fit'\]\['model'\]"):
            convert(file)
        with pytest.raises(TypeError, match="the checkpoint is a Sequential"):
            convert(model)
    with pytest.raises(ValueError, match=r"pass checkpoint\['loops'\]"):
        expand_state_dict(_model().state_dict(), like=file)


def test_factors_of_another_layout_are_no_expansion() -> None:
    model, other = overparameterize(_model()), overparameterize(_model(), 3)
    with pytest.raises(ValueError, match=r"of 0\.weight, the model .*collapse_state_dict first"):
        expand_state_dict(other.state_dict(), like=model)
    model.load_state_dict(expand_state_dict(collapse_state_dict(other.state_dict()), like=model))


def test_a_single_factor_without_its_layout_is_refused() -> None:
    model = overparameterize(nn.Linear(3, 3), 1)
    with pytest.raises(ValueError, match="factors of weight have no layout"):
        collapse_state_dict(dict(model.named_parameters()))
