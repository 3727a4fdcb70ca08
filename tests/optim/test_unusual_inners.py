"""Inner optimizers and groups that do what most do not."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overparam import EndToEnd, Factored, Radial
from overparam._fingerprint import fingerprint
from overparam.layers import parameter_view, select_parameters

WRAPPERS = {"rule": EndToEnd, "factors": Factored, "radial": Radial}
every_wrapper = pytest.mark.parametrize("kind", WRAPPERS.values(), ids=WRAPPERS)


class Plain(torch.optim.Optimizer):
    """Gradient descent, to be made unusual."""

    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, group)

    def move(self, p: Tensor, group: dict) -> None:
        p.sub_(group["lr"] * p.grad)


class CountsBesideParameters(Plain):
    """As MADGRAD does: a count under a name of its own in the state."""

    def step(self, closure=None) -> None:
        self.state["k"] = self.state.get("k", 0) + 1 if "k" in self.state else 1
        super().step()

    def move(self, p: Tensor, group: dict) -> None:
        p.sub_(group["lr"] / self.state["k"] * p.grad)


class TallAlone(Plain):
    """Keeps momentum for tall matrices alone."""

    def move(self, p: Tensor, group: dict) -> None:
        if p.ndim == 2 and p.shape[0] > p.shape[1]:
            buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
            p.sub_(group["lr"] * buffer.mul_(0.9).add_(p.grad))
        else:
            super().move(p, group)


class TakesNames(Plain):
    """Keeps state under a given name."""

    def __init__(self, params, lr: float = 0.1, name: str = "") -> None:
        super().__init__(params, lr)
        self.name = name

    def move(self, p: Tensor, group: dict) -> None:
        super().move(p, group)
        self.state[p][self.name] = torch.zeros(())


class ListThenError(Plain):
    """Keeps a list, appends to it, drops the gradient, and fails in its third step."""

    def move(self, p: Tensor, group: dict) -> None:
        history = self.state[p].setdefault("history", [])
        history.append(float(p.grad.norm()))
        super().move(p, group)
        if len(history) == 3:
            p.grad = None
            raise RuntimeError("third step")


class DecaysAll(Plain):
    """Decays what has no gradient too, and fails when it is asked to."""

    fails = False

    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                with torch.no_grad():
                    p.mul_(0.5)
        if self.fails:
            raise RuntimeError("decayed, and failed")


class KeepsParameters(Plain):
    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, lr)
        self._params = {"all": [p for group in self.param_groups for p in group["params"]]}


class BeginsAtOnce(Plain):
    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, lr)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["buffer"] = torch.zeros_like(p)


class SavesMore(Plain):
    def state_dict(self) -> dict:
        return {**super().state_dict(), "k": 1}


class PutsKeys(Plain):
    """Puts a list into its groups and a count into its state; both change in place."""

    fails = False

    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, lr)
        self.state["total"] = {"steps": 0}
        for group in self.param_groups:
            group["history"] = []

    def step(self, closure=None) -> None:
        self.state["total"]["steps"] += 1
        for group in self.param_groups:
            group["history"].append(self.state["total"]["steps"])
        super().step()
        if self.fails:
            raise RuntimeError("counted, and failed")


def problem() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4)), torch.randn(6, 5)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@every_wrapper
def test_what_lies_in_the_state_beside_parameters_stays(kind) -> None:
    model, x = problem()
    optimizer = kind(model, lr=0.1, inner=CountsBesideParameters)
    for _ in range(4):
        step(model, optimizer, x)
    assert optimizer.state["k"] == 4


def test_inner_state_of_some_factors_alone_is_resumed() -> None:
    (model, x), (twin, _) = problem(), problem()
    first, second = (Factored(each, inner=TallAlone, lr=0.1) for each in (model, twin))
    for _ in range(3):
        step(model, first, x)
    twin.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(3):
        step(model, first, x)
        step(twin, second, x)
    assert torch.equal(model[0].weight, twin[0].weight)


@every_wrapper
def test_lists_and_gradients_are_as_before_where_the_inner_optimizer_fails(kind) -> None:
    model, x = problem()
    optimizer = kind(model, lr=0.1, inner=ListThenError)
    for _ in range(2):
        step(model, optimizer, x)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    weights = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="third step"):
        step(model, optimizer, x)
    for p, old in zip(model.parameters(), weights, strict=True):
        assert torch.equal(p, old)
        assert p.grad is not None
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            same = torch.equal if isinstance(value, Tensor) else lambda a, b: a == b
            assert same(value, before[index][name]), name


@pytest.mark.parametrize(("kind", "option"), [(EndToEnd, "depth"), (Radial, "radial")])
@pytest.mark.parametrize("values", [(1, 2), (2, 1)])
def test_half_precision_may_cross_one_in_mid_run(kind, option: str, values) -> None:
    model, x = problem()
    model, x = model.bfloat16(), x.bfloat16()
    optimizer = kind(model, lr=0.01, inner="adamw", **{option: values[0]})
    step(model, optimizer, x)
    optimizer.param_groups[0][option] = values[1]
    step(model, optimizer, x)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_refused_optimizer_leaves_every_weight_alone() -> None:
    model, _ = problem()
    before = copy.deepcopy(model.state_dict())
    for params, options in (
        (model, {"overrides": {"1": {"width": 1}}}),
        ([{"params": model[0]}, {"params": model[1], "width": 1}], {}),
    ):
        with pytest.raises(ValueError, match="width 1 is below 3"):
            Factored(params, lr=0.1, **options)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_exchanged_rows_columns_and_signs_are_noticed(dtype) -> None:
    one = torch.eye(4, dtype=dtype)
    flat = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=dtype)
    for tensor, other in ((one, one.flip(0)), (one, one.flip(1)), (flat, -flat)):
        assert fingerprint(tensor) != fingerprint(other)
    model = nn.Linear(4, 4, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.copy_(one)
    optimizer = Factored(model, inner="sgd", lr=0.0)
    with torch.no_grad():
        model.weight.copy_(one.flip(0))
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), one.flip(0), atol=1e-2, rtol=0)


def test_an_option_of_the_same_name_is_refused() -> None:
    class Normalizing(Plain):
        def __init__(self, params, lr: float = 0.1, normalize: bool = False) -> None:
            super().__init__(params, lr)
            self.defaults["normalize"] = normalize

    with pytest.raises(ValueError, match=r"options of the same name.*normalize"):
        EndToEnd(nn.Linear(3, 2), inner=Normalizing)


def test_an_embedding_that_renormalizes_itself_is_refused_where_it_is_asked_for() -> None:
    words = nn.Embedding(6, 4, max_norm=1.0)
    for kind in WRAPPERS.values():
        kind(words, lr=0.1)  # not asked for: the inner optimizer takes it
        with pytest.raises(ValueError, match=r"max_norm.*leave it out"):
            kind(words, lr=0.1, targets="embedding")


def test_parameters_put_in_and_taken_out_of_a_group_keep_the_reading_of_the_others() -> None:
    conv, extra = nn.Conv1d(4, 6, 3, groups=2), nn.Parameter(torch.randn(3, 2))
    optimizer = EndToEnd(conv, lr=0.1)
    optimizer.param_groups[0]["params"].insert(0, extra)
    optimizer.param_groups[0].pop("param_names")
    rows = list(optimizer.routing())
    assert [row["matrices"] for row in rows] == ["1 x (3, 2)", "2 x (3, 6)", ""]


def test_parameters_of_a_subclass_are_not_read_as_the_weight_of_its_base() -> None:
    class Gained(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(2, 3, 3)
            self.gain = nn.Parameter(torch.ones(3, 1, 1, 1))
            self.mix = nn.Parameter(torch.ones(3, 2))

    class Mixing(nn.LayerNorm):
        def __init__(self) -> None:
            super().__init__(4)
            self.debias = nn.Parameter(torch.ones(4, 4))

    for module, name in ((Gained(), "gain"), (Gained(), "mix"), (Mixing(), "debias")):
        view = parameter_view(module, name)
        assert view is not None
        assert view.kind == "unknown"
    assert parameter_view(Gained(), "weight").kind == "convolution"


@pytest.mark.parametrize("first", ["words", "head"])
def test_a_tied_embedding_is_read_as_an_embedding_whichever_comes_first(first: str) -> None:
    words, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = words.weight
    both = {"words": words, "head": head}
    model = nn.ModuleDict({first: both.pop(first), **both})
    (entry,) = select_parameters(model, "all").selected
    assert entry.view.kind == "embedding"
    (skipped,) = select_parameters(model).skipped
    assert "tied to" in skipped.reason


@every_wrapper
def test_an_inner_optimizer_may_move_what_has_no_gradient(kind) -> None:
    model, _ = problem()
    optimizer = kind(model, inner=DecaysAll)
    before = [p.detach().clone() for p in model.parameters()]
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    optimizer.step()
    by = {EndToEnd: 0.5, Factored: 0.25, Radial: 0.0}[kind]  # Radial doubles a step along W
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old * (by if p.ndim == 2 else 0.5))


@every_wrapper
def test_what_moved_without_a_gradient_is_as_before_after_an_error(kind, monkeypatch) -> None:
    model, _ = problem()
    optimizer = kind(model, inner=DecaysAll)
    before = copy.deepcopy([list(model.parameters()), optimizer.state_dict()["state"]])
    monkeypatch.setattr(DecaysAll, "fails", True)
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    with pytest.raises(RuntimeError, match="decayed, and failed"):
        optimizer.step()
    for p, old in zip(model.parameters(), before[0], strict=True):
        assert torch.equal(p, old)
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(value, before[1][index][name])


def test_a_gradient_that_is_not_finite_stops_a_decay_without_gradient_too() -> None:
    model, _ = problem()
    optimizer = EndToEnd(model, inner=DecaysAll)
    before = model[0].weight.detach().clone()
    model[0].weight.grad = torch.full_like(before, torch.nan)
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert optimizer.state[model[0].weight]["skipped"] == 1


@every_wrapper
@pytest.mark.parametrize(
    ("inner", "why"),
    [
        (KeepsParameters, "keeps parameters in '_params'.*reads self.param_groups"),
        (BeginsAtOnce, "makes state in its constructor.*in the first step"),
        (SavesMore, "has a state_dict of its own"),
    ],
)
def test_an_inner_optimizer_that_keeps_things_to_itself_is_refused(kind, inner, why: str) -> None:
    with pytest.raises(TypeError, match=f"{inner.__name__} {why}"):
        kind(nn.Linear(3, 2), inner=inner)


@every_wrapper
def test_what_a_constructor_puts_into_groups_and_state_is_there(kind, monkeypatch) -> None:
    model, x = problem()
    optimizer = kind(model, lr=0.1, inner=PutsKeys)
    for _ in range(2):
        step(model, optimizer, x)
    assert optimizer.param_groups[0]["history"] == [1, 2]
    assert optimizer.state["total"] == {"steps": 2}
    history, total = optimizer.param_groups[0]["history"], optimizer.state["total"]
    monkeypatch.setattr(PutsKeys, "fails", True)
    with pytest.raises(RuntimeError, match="counted, and failed"):
        step(model, optimizer, x)
    assert optimizer.param_groups[0]["history"] is history
    assert optimizer.state["total"] is total
    assert (history, total) == ([1, 2], {"steps": 2})


class BeginsInSetState(torch.optim.SGD):
    """Completes the state of all parameters whenever it takes over state, as some do."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("calls", 0)


def test_what_an_inner_optimizer_begins_as_it_takes_over_state_is_kept() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = EndToEnd(model, 0.1, inner=BeginsInSetState, momentum=0.9)
    model[0].weight.grad = torch.ones(3, 3)
    optimizer.step()
    again = EndToEnd(model, 0.1, inner=BeginsInSetState, momentum=0.9)
    again.load_state_dict(optimizer.state_dict())
    saved = again.state_dict()["state"]
    assert {index: state["calls"] for index, state in saved.items()} == dict.fromkeys(range(4), 0)
    assert "momentum_buffer" in saved[0]


@pytest.mark.parametrize("name", ["skipped", "basis"])
def test_inner_state_under_a_name_of_our_own_is_refused_and_nothing_changes(name) -> None:
    model = nn.Linear(3, 2)
    optimizer = EndToEnd(model, lr=0.1, inner=lambda groups, lr: TakesNames(groups, lr, name))
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(1, 3)).sum().backward()
    with pytest.raises(ValueError, match=f"keeps '{name}' in its state"):
        optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))
    assert not any(optimizer.state.values())


def test_names_of_factors_own_state_are_free_for_factors_and_taken_for_vectors() -> None:
    model = nn.Linear(3, 2, bias=False)
    factory = lambda groups, lr: TakesNames(groups, lr, "depth")  # noqa: E731
    optimizer = Factored(model, 0.1, factory)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert optimizer.state[model.weight]["depth"] == 2
    assert optimizer.inner_state(model.weight, "factor1_").keys() == {"depth"}

    model = nn.Linear(3, 2)
    optimizer = Factored(model, 0.1, factory)
    model(torch.ones(1, 3)).sum().backward()
    with pytest.raises(ValueError, match="keeps 'depth' in its state, which is a name of Factored"):
        optimizer.step()
