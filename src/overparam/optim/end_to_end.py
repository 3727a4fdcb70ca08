"""EndToEnd: gradient descent on a model as if each weight were a product of N factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from overparam._checks import check_depth
from overparam._precision import without_autocast
from overparam.optim.groups import (
    Params,
    accepts_names,
    check_lr,
    check_nonnegative,
    complete_options,
    complete_views,
    expand_module,
    group_views,
    parameter_names,
    warn_of_zeros,
    with_modules,
)
from overparam.optim.loading import load_exactly, merge
from overparam.optim.routing import (
    GRANULARITIES,
    Route,
    RoutingReport,
    entry,
    route,
)
from overparam.optim.stepping import State, fresh_state, stacks, step_stack

_BASES = ("auto", "exact", "tracked")


class EndToEnd(Optimizer):
    r"""Train as if every weight matrix were a product of ``depth`` balanced factors.

    .. math::
        W \leftarrow (1 - \eta \lambda N) W - \eta \sum_{j=1}^{N}
        [W W^T]^{(j-1)/N} \, B \, [W^T W]^{(N-j)/N}

    Source: Arora, Cohen, Hazan (2018), Theorem 1, for gradient descent with a small learning
    rate. No factors are stored: the weights, the forward pass and the checkpoints of the model
    stay as they are. ``B`` is the gradient, or with ``momentum`` its running sum as in
    :class:`torch.optim.SGD`. For ``depth=1`` the step is that of SGD: bit for bit in float32 and
    float64 with ``lr`` a number and without weight decay, else up to rounding (half precision is
    rounded once a step, from float32, where SGD computes in the dtype of the parameter).

    What each parameter gets is printed by ``print(optimizer.routing())``:

    - weights of linear layers, and convolutions as ``(out, in * k * k)`` matrices: the rule;
    - grouped convolutions, packed attention projections, RNN gates, experts: the rule for each
      matrix. This needs the model, ``EndToEnd(model)``, or a group ``{"params": model.layer}``:
      bare tensors do not tell (``model.parameters()`` reads each as one matrix ``(out, rest)``);
    - embeddings (given by a model): each row as a layer with a single output, so that rows
      without gradient stay where they are;
    - vectors and scalars: a plain gradient step with the same momentum and learning rate.

    **Learning rate.** With ``normalize=True`` the update of each matrix is divided by the largest
    eigenvalue of its preconditioner, ``N s_max^(2-2/N)``, and ``lr`` means what it means in SGD:
    no direction moves further than SGD would, the dominant one moves as far. Weight decay is then
    ``lr * weight_decay``. With ``normalize=False`` the rule is the paper's, weight decay
    included (for ``depth=math.inf`` the limit of the rule over N).

    **Zero weights.** For ``N > 1`` a zero weight is a fixed point and a null space stays null:
    give ``singular_value_floor``, in units of the weight, or put the parameter in a group with
    ``depth=1``. A warning names all-zero weights.

    **Safety.** A parameter whose gradient has a non-finite entry keeps its value, momentum and
    basis bit for bit, and the step is counted in ``state[p]["skipped"]``. A decomposition that
    fails is tried in float64, then the old basis is kept and counted in
    ``state[p]["basis_failures"]``; any orthonormal basis gives a descent direction. The report of
    :meth:`routing` tells both counts where they are not zero.

    Half-precision parameters are updated in float32, where their state lives too.

    **State** is complete at construction, but for frozen weights (``requires_grad=False``): their
    basis, the largest part of it, is made at their first step.

    Args:
        params: a model, or parameters, named parameters, or groups; in a group ``"params"`` may
            be a module. Groups override any option below, and may give ``"views"``, one
            :class:`overparam.layers.views.MatrixView` or None per parameter.
        lr: learning rate, a number or a tensor with one element.
        depth: ``N >= 1``, real or ``math.inf``.
        momentum: as in SGD.
        nesterov: as in SGD.
        weight_decay: decoupled.
        granularity: "matrix"; "row", each output as a layer of its own; "tensor", the whole
            tensor as one single output, vectors too; "auto": matrices, and rows for embeddings.
        normalize: see above.
        singular_value_floor: singular values below count as this one.
        basis: "exact", a decomposition each step; "tracked", sweeps of matrix products, one each
            step; "auto", exact on the CPU and tracked elsewhere. A tracked basis is looked at, and
            swept again or decomposed anew where it is lost, at every step on the CPU and at the
            first and every hundredth step elsewhere, where a look makes the host wait: in between,
            a jump of the weight is made up for by one sweep a step. Its error,
            ``state[p]["basis_error"]``, does not see directions of small singular values: for
            Gaussian weights of 256 x 256 that move by 1 % a step the update was off by 1e-3 to
            3e-3, for weights of low rank with noise by 1e-2 to 4e-2 (``benchmarks/optim.md``).
            It stays a descent direction.
        maximize: ascend.
        foreach: whether to update same-shape parameters in one batched call; by default yes, in
            stacks of bounded size.
        capturable: never let the host wait for the device or read a value back: for CUDA graphs
            and ``torch.compile``. Give ``lr`` as a tensor on the device to change it between
            replays. A tracked basis is then never decomposed anew; sweeps alone bring it back
            within tens of steps after a jump of the weight.
        differentiable: let autograd follow the step, through the float64 reference.

    Raises:
        TypeError: a parameter is not of a real floating-point dtype, or depth is no number.
        ValueError: an option out of range; the message names it.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = EndToEnd(model, lr=0.1, depth=2)
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> print(optimizer.routing())  # doctest: +ELLIPSIS
        parameter  shape   rule      matrices    depth  reason
        weight     (2, 3)  matrix    1 x (2, 3)  2      linear
        bias       (2,)    gradient              2      vector or scalar: no matrix to factor, ...
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        depth: float = 2.0,
        momentum: float = 0,
        nesterov: bool = False,
        weight_decay: float = 0,
        *,
        granularity: str = "auto",
        normalize: bool = True,
        singular_value_floor: float = 0,
        basis: str = "auto",
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "depth": depth,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "granularity": granularity,
            "normalize": normalize,
            "singular_value_floor": singular_value_floor,
            "basis": basis,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        _check_options(defaults)
        super().__init__(with_modules(params), defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its ``"params"`` may be a module. State is created here."""
        super().add_param_group(expand_module(param_group, named=accepts_names(self.param_groups)))
        group = self.param_groups[-1]
        try:
            _check_options(group)
            complete_views(group)
        except Exception:
            self.param_groups.pop()
            raise
        for p, chosen in _routes(group):
            self.state[p] = fresh_state(p, group, chosen, basis=p.requires_grad)
        self._warn_of_zeros(group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load state bit for bit; older state is completed, see the class for what it holds."""

        def restore(group: dict[str, Any], _: dict[str, Any], saved: list[State]) -> None:
            for (p, chosen), old in zip(_routes(group), saved, strict=True):
                # A weight may have been frozen, or momentum set to 0, after some training.
                basis = p.requires_grad or "basis" in old
                momentum = old.get("momentum_buffer") is not None
                fresh = fresh_state(p, group, chosen, basis=basis, momentum=momentum)
                self.state[p] = merge(fresh, old)

        load_exactly(self, super().load_state_dict, state_dict, restore)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            complete_options(group, self.defaults)

    def routing(self) -> RoutingReport:
        """Which rule each parameter gets and why: print it, or iterate over its rows."""
        names = parameter_names(self.param_groups)
        return RoutingReport(
            [
                entry(names[p], tuple(p.shape), group["depth"], chosen, self.state[p])
                for group in self.param_groups
                for p, chosen in _routes(group)
            ]
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss; called with gradients enabled.

        Returns:
            The loss of the closure, or None.
        """
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for group in self.param_groups:
                for items in stacks(_routes(group), group, self.state):
                    with without_autocast(items[0].p.device):
                        step_stack(items, group)
        return loss

    def _warn_of_zeros(self, group: dict[str, Any]) -> None:
        if group["singular_value_floor"] > 0:
            return
        names = parameter_names(self.param_groups)
        stuck = [
            names[p]
            for p, chosen in _routes(group)
            if chosen.rule != "gradient" and p.numel() and not p.is_meta and not bool(p.any())
        ]
        warn_of_zeros(stuck, "set singular_value_floor")


def _check_options(options: dict[str, Any]) -> None:
    check_lr(options["lr"])
    if isinstance(options["depth"], Tensor):
        raise TypeError("depth is a tensor; give each group a number of its own.")
    check_depth(options["depth"])
    for name in ("momentum", "weight_decay", "singular_value_floor"):
        check_nonnegative(name, options[name])
    if math.isinf(options["singular_value_floor"]):
        raise ValueError(
            "singular_value_floor is inf; use a finite number, in units of the weight."
        )
    if options["nesterov"] and options["momentum"] <= 0:
        raise ValueError("Nesterov momentum requires a momentum above 0")
    for name, allowed in (("granularity", GRANULARITIES), ("basis", _BASES)):
        if options[name] not in allowed:
            raise ValueError(f"{name} is {options[name]!r}; use one of {', '.join(allowed)}.")
    if options["differentiable"] and options["singular_value_floor"] > 0:
        raise ValueError("differentiable=True has no singular_value_floor; set one of them only.")


def _routes(group: dict[str, Any]) -> Iterator[tuple[Tensor, Route]]:
    granularity, depth = group["granularity"], float(group["depth"])
    for p, view in zip(group["params"], group_views(group), strict=True):
        yield p, route(tuple(p.shape), view, granularity, depth)
