"""EndToEnd and Factored described for torch's own optimizer test machinery."""

import importlib.util
import math
import sys
import types
import unittest

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

if "expecttest" not in sys.modules and importlib.util.find_spec("expecttest") is None:
    # torch's test helpers import it for the base class of test cases, which is not used here.
    stand_in = types.ModuleType("expecttest")
    vars(stand_in)["TestCase"] = unittest.TestCase
    sys.modules["expecttest"] = stand_in

from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerInfo,
    OptimizerInput,
    _get_optim_inputs_including_global_cliquey_kwargs,
    get_error_inputs_for_all_optims,
    optim_db,
)

from overparam.optim import EndToEnd, Factored


def _inputs(*cases: tuple[str, dict]):
    def make(device, dtype=None) -> list[OptimizerInput]:
        return [
            OptimizerInput(params=None, kwargs=dict(kwargs), desc=desc) for desc, kwargs in cases
        ]

    return make


def _errors(*cases: tuple[dict, type[Exception], str]):
    def make(device, dtype) -> list[ErrorOptimizerInput]:
        complex_param = Parameter(torch.rand(2, 3, dtype=torch.complex64))
        ours = [(None, kwargs, kind, words) for kwargs, kind, words in cases]
        ours.append(([complex_param], {}, TypeError, "real floating-point"))
        return get_error_inputs_for_all_optims(device, dtype) + [
            ErrorOptimizerInput(
                OptimizerInput(params=params, kwargs=kwargs, desc=words),
                error_type=kind,
                error_regex=words,
            )
            for params, kwargs, kind, words in ours
        ]

    return make


# torch gives SGD the longest list.
[SCHEDULERS] = [each.scheduler_inputs for each in optim_db if each.optim_cls is torch.optim.SGD]

SGD = {"inner": torch.optim.SGD, "lr": 1e-2}

INFOS = [
    OptimizerInfo(
        EndToEnd,
        optim_inputs_func=_inputs(
            ("default", {}),
            ("tensor lr", {"lr": torch.tensor(0.01)}),
            ("momentum, weight decay", {"momentum": 0.9, "weight_decay": 0.1}),
            ("nesterov", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
            ("maximize", {"weight_decay": 0.1, "maximize": True}),
            ("depth 1", {"depth": 1, "momentum": 0.9}),
            ("real depth", {"depth": 2.5}),
            ("infinite depth", {"depth": math.inf, "momentum": 0.5}),
            ("row", {"granularity": "row", "depth": 3}),
            ("tensor", {"granularity": "tensor", "singular_value_floor": 1e-3}),
            ("raw", {"normalize": False, "lr": 1e-3, "weight_decay": 0.1}),
            ("tracked", {"basis": "tracked", "momentum": 0.9}),
            ("capturable", {"basis": "tracked", "capturable": True, "momentum": 0.9}),
        ),
        optim_error_inputs_func=_errors(
            ({"lr": -1.0}, ValueError, "Invalid learning rate"),
            ({"momentum": -0.5}, ValueError, "Invalid momentum value: -0.5"),
            ({"depth": 0.0}, ValueError, "depth is 0.0"),
        ),
        supported_impls=("foreach",),
        scheduler_inputs=SCHEDULERS,
        supports_sparse=True,
        supports_complex=False,
        has_capturable_arg=True,
    ),
    OptimizerInfo(
        Factored,
        optim_inputs_func=_inputs(
            ("default", {}),
            ("tensor lr", {"lr": torch.tensor(0.01)}),
            ("sgd", SGD),
            ("sgd, momentum", {**SGD, "lr": 1e-3, "momentum": 0.9, "nesterov": True}),
            (
                "weight decay on the product",
                {**SGD, "weight_decay": 0.1, "weight_decay_on": "product"},
            ),
            ("weight decay on the factors", {"weight_decay": 0.1}),
            ("depth 3, maximize", {"depth": 3, "maximize": True}),
            ("depth 1", {"depth": 1}),
            ("wide", {"width": 24, "amsgrad": True}),
        ),
        optim_error_inputs_func=_errors(
            ({"lr": -1.0}, ValueError, "Invalid learning rate"),
            ({"depth": 0}, ValueError, "depth is 0"),
            ({"momentum": 0.5}, TypeError, "unexpected keyword"),
        ),
        supported_impls=("foreach",),
        scheduler_inputs=SCHEDULERS,
        supports_complex=False,
    ),
]


def cases(skip: tuple[str, ...] = ()) -> list[tuple[OptimizerInfo, OptimizerInput]]:
    """Every optimizer with every configuration, the global flags included."""
    return [
        (info, case)
        for info in INFOS
        for case in _get_optim_inputs_including_global_cliquey_kwargs("cpu", None, info, skip)
    ]


def case_name(value: object) -> str | None:
    """For pytest's ids."""
    if isinstance(value, OptimizerInfo):
        return value.name
    return value.desc if isinstance(value, OptimizerInput) else None


every_case = pytest.mark.parametrize(("info", "case"), cases(skip=("foreach",)), ids=case_name)
every_info = pytest.mark.parametrize("info", INFOS, ids=case_name)


def sample(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Matrices, a kernel, a vector, a scalar, one row and one column."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 6), (6, 4), (4, 6), (5, 2, 3), (7,), (), (1, 5), (5, 1)]
    params = [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
    return params


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def same(first: list, second: list) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def tensors_in(value: object) -> list[Tensor]:
    """All tensors of nested dictionaries and lists."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for each in value for t in tensors_in(each)] if isinstance(value, list) else []


def state_tensors(optimizer: Optimizer) -> list[Tensor]:
    return tensors_in(optimizer.state_dict()["state"])
