"""The checks of torch's TestOptimRenewed that are about state, copies, hooks and errors.

Configurations come from torch's OptimizerInfo table; see tests/optim_infos.py.
"""

import copy
import io
import pickle
import warnings

import pytest
import torch
from support.optim_infos import (
    INFOS,
    cases,
    every_case,
    every_info,
    same,
    sample,
    state_tensors,
    tensors_in,
    values,
)
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from overparam.optim import EndToEnd, Factored


@pytest.mark.parametrize(
    ("info", "error"),
    [
        (info, error)
        for info in INFOS
        for error in info.optim_error_inputs_func("cpu", torch.float64)
    ],
    ids=lambda value: value.name if value in INFOS else value.optimizer_error_input.desc,
)
def test_errors(info, error) -> None:
    case = error.optimizer_error_input
    params = case.params if case.params is not None else sample()
    if issubclass(error.error_type, Warning):
        with pytest.warns(error.error_type, match=error.error_regex):
            info.optim_cls(params, **case.kwargs)
    else:
        with pytest.raises(error.error_type, match=error.error_regex):
            info.optim_cls(params, **case.kwargs)


@every_case
def test_state_dict_resumes_bit_for_bit(info, case) -> None:
    params = sample()
    optimizer = info.optim_cls(params, **case.kwargs)
    for _ in range(3):
        optimizer.step()
    buffer = io.BytesIO()
    torch.save({"params": values(params), "optimizer": optimizer.state_dict()}, buffer)
    for _ in range(3):
        optimizer.step()
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    resumed = sample()
    for p, value in zip(resumed, saved["params"], strict=True):
        p.data.copy_(value)
    other = info.optim_cls(resumed, **case.kwargs)
    other.load_state_dict(saved["optimizer"])
    assert same(values(resumed), saved["params"])
    for _ in range(3):
        other.step()
    assert same(values(params), values(resumed))
    assert same(state_tensors(optimizer), state_tensors(other))


@every_case
def test_loading_its_own_state_changes_nothing(info, case) -> None:
    ends = []
    for reloads in (False, True):
        params = sample()
        optimizer = info.optim_cls(params, **case.kwargs)
        for _ in range(3):
            optimizer.step()
        if reloads:
            optimizer.load_state_dict(optimizer.state_dict())  # no copy in between
        for _ in range(3):
            optimizer.step()
        ends.append((values(params), state_tensors(optimizer)))
    assert same(ends[0][0], ends[1][0])
    assert same(ends[0][1], ends[1][1])


@every_case
def test_a_step_counter_saved_as_a_number_loads(info, case) -> None:
    params = sample()
    optimizer = info.optim_cls(params, **case.kwargs)
    for _ in range(3):
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    states = list(saved["state"].values())
    states += [inner for state in states for inner in state.get("inner", [])]
    for state in states:
        if "step" in state:
            state["step"] = state["step"].item()
    optimizer.load_state_dict(saved)
    optimizer.step()
    steps = [s["step"] for s in optimizer.state.values() if "step" in s]
    assert steps == [4.0] * len(steps)


@every_case
def test_a_saved_state_dict_is_what_was_saved(info, case) -> None:
    optimizer = info.optim_cls(sample(), **case.kwargs)
    optimizer.step()
    state_dict = optimizer.state_dict()
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert loaded["param_groups"] == state_dict["param_groups"]
    assert loaded["state"].keys() == state_dict["state"].keys()
    assert same(tensors_in(loaded["state"]), tensors_in(state_dict["state"]))


@every_info
def test_repeated_groups_read_alike(info) -> None:
    params = sample()
    optimizer = info.optim_cls(params)
    single = optimizer.state_dict()["param_groups"]
    optimizer.param_groups.extend(optimizer.param_groups)
    assert optimizer.state_dict()["param_groups"] == single * 2


@every_case
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_alone(info, case, how: str) -> None:
    params = sample()
    optimizer = info.optim_cls(params, **case.kwargs)
    optimizer.step()
    duplicate = copy.deepcopy if how == "deepcopy" else lambda it: pickle.loads(pickle.dumps(it))
    twin = duplicate(optimizer)
    copies = [p for group in twin.param_groups for p in group["params"]]
    for p, original in zip(copies, params, strict=True):
        p.grad = original.grad.clone()
    before = values(params)
    twin.step()
    assert same(values(params), before)
    optimizer.step()
    assert same(values(params), values(copies))
    public = {name for name in vars(optimizer) if not name.startswith("_")}
    assert public == {name for name in vars(twin) if not name.startswith("_")}


@every_case
def test_state_dict_is_deterministic_and_printable(info, case) -> None:
    states = []
    for _ in range(2):
        params = sample()
        optimizer = info.optim_cls(params, **case.kwargs)
        for _ in range(2):
            optimizer.step()
        states.append(state_tensors(optimizer))
        assert info.name in repr(optimizer)
    assert same(*states)
    assert all(optimizer.state[p] for p in params)


@every_info
def test_older_state_loads(info) -> None:
    """A state_dict from before most options and state tensors existed."""
    params = sample()
    optimizer = info.optim_cls(params, lr=0.01)
    optimizer.step()
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        for key in set(group) - {"params", "lr"}:
            del group[key]
    if info.optim_cls is EndToEnd:
        for state in old["state"].values():
            for key in list(state)[1:]:
                del state[key]
    fresh = info.optim_cls(params, lr=0.5)
    fresh.load_state_dict(old)
    assert fresh.param_groups[0]["lr"] == 0.01
    before = values(params)
    fresh.step()
    assert not same(values(params), before)
    old = pickle.loads(pickle.dumps(optimizer))
    del old.param_groups[0]["depth"], old.param_groups[0]["views"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*changed since the last step")  # by the other one
        pickle.loads(pickle.dumps(old)).step()


@every_info
def test_state_of_another_optimizer_loads(info) -> None:
    params = sample()
    sgd = torch.optim.SGD(params, lr=0.03, momentum=0.9)
    sgd.step()
    optimizer = info.optim_cls(params, lr=0.01)
    before = values(params)
    if info.optim_cls is Factored:  # it has no use for the momentum of weights
        with pytest.raises(ValueError, match="saved by another optimizer"):
            optimizer.load_state_dict(sgd.state_dict())
        assert optimizer.param_groups[0]["lr"] == 0.01
        return
    optimizer.load_state_dict(sgd.state_dict())
    assert same(values(params), before)
    assert optimizer.param_groups[0]["lr"] == 0.03
    optimizer.step()
    assert all(p.isfinite().all() for p in params)


@every_info
def test_names_go_to_and_from_state_dicts(info) -> None:
    params = sample()
    named = [(f"p{i}", p) for i, p in enumerate(params)]
    with_names, without = info.optim_cls(named), info.optim_cls(params)
    with_names.step()
    without.load_state_dict(with_names.state_dict())
    with_names.load_state_dict(without.state_dict())
    assert with_names.param_groups[0]["param_names"][0] == "p0"
    with_names.step()


@every_info
def test_hooks(info) -> None:
    events: list[str] = []

    def note(name: str):
        return lambda *args: events.append(name)

    optimizer = info.optim_cls(sample())
    optimizer.register_step_pre_hook(note("before step"))
    optimizer.register_step_post_hook(note("after step"))
    optimizer.register_state_dict_pre_hook(note("before save"))
    optimizer.register_state_dict_post_hook(note("after save"))
    optimizer.register_load_state_dict_pre_hook(note("before load"))
    optimizer.register_load_state_dict_post_hook(note("after load"))
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert events == [
        "before step", "after step", "before save", "after save", "before load", "after load",
    ]  # fmt: skip


@every_info
def test_hooks_of_all_optimizers_surround_those_of_one(info) -> None:
    events: list[int] = []

    def note(number: int):
        return lambda *args: events.append(number)

    optimizer = info.optim_cls(sample())
    handles = [
        register_optimizer_step_pre_hook(note(0)),
        optimizer.register_step_pre_hook(note(1)),
        optimizer.register_step_post_hook(note(2)),
        register_optimizer_step_post_hook(note(3)),
    ]
    try:
        optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    # The inner optimizer of Factored is an optimizer too.
    assert [event for event in events if event in (1, 2)] == [1, 2]
    assert (events[0], events[-1]) == (0, 3)
    count = len(events)
    optimizer.step()
    assert len(events) == count


@every_info
def test_state_of_ones_own_goes_through_state_dicts(info) -> None:
    """Hooks may keep entries in the state that belong to no parameter."""
    optimizer = info.optim_cls(sample(), lr=0.1)

    def keep(optimizer: Optimizer) -> None:
        optimizer.state["note"] = 1

    optimizer.register_state_dict_pre_hook(keep)
    state_dict = optimizer.state_dict()
    assert state_dict["state"]["note"] == 1
    optimizer.load_state_dict(state_dict)
    assert optimizer.state["note"] == 1
    optimizer.step()


@every_info
def test_load_hooks_may_change_what_is_loaded(info) -> None:
    optimizer = info.optim_cls(sample(), lr=0.1)

    def larger(_: Optimizer, state_dict: dict) -> dict:
        groups = [{**group, "lr": 0.5} for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    def smaller(optimizer: Optimizer) -> None:
        assert optimizer.param_groups[0]["lr"] == 0.5
        optimizer.param_groups[0]["lr"] = 0.25

    optimizer.register_load_state_dict_pre_hook(larger)
    optimizer.register_load_state_dict_post_hook(smaller)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_torch_table_is_not_changed_by_warnings() -> None:
    """Constructing every configuration is silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "the shape of a parameter|depth=inf freezes")
        for info, case in cases():
            info.optim_cls(sample(), **case.kwargs)
