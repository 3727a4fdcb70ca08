"""Radial: any optimizer, with its steps stretched along each weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from overparam import sharded
from overparam._checks import plain_number
from overparam._compiled import uncompiled
from overparam._precision import state_dtype
from overparam.factors.decay import start_of_step
from overparam.layers.choice import Choice
from overparam.layers.groups import Params
from overparam.layers.select import Targets
from overparam.layers.table import PLAIN
from overparam.layers.views import MatrixView
from overparam.optim.grouped import Row
from overparam.optim.inner import Group, Inner, StandIn
from overparam.optim.transform import Transform
from overparam.rule.radial import bias_correction, radial_stretch, radial_stretch_in_metric

_GRANULARITIES = ("tensor", "row", "matrix")
_METRICS = ("auto", "adam", "euclidean")
_ADAM = (torch.optim.Adam, torch.optim.AdamW)


class Radial(Transform):
    r"""Stretch the steps of an inner optimizer along each weight.

    .. math::
        u \leftarrow u + (r - 1) \, \frac{\langle W, u \rangle}{|W|^2} \, W

    A weight that is trained as a product moves faster along itself than across: for one output,
    ``N`` times as fast (Arora, Cohen, Hazan 2018, Claim 2). This is that stretch alone, at a cost
    of ``O(mn)`` and without factors. ``radial=1`` is the inner optimizer, bit for bit; ``radial=N``
    is Claim 2 without its factor ``|w|^(2-2/N)``; ``radial=0`` removes the part of the step along
    the weight, as AdamP does.

    For Adam and AdamW the stretch is in the metric in which their step is a gradient,
    ``u - lr (r-1) <W, m> / <W, s o W> W`` with ``s = sqrt(v) + eps``; for all
    others it is Euclidean, as above. The decoupled weight decay of torch's optimizers is not part
    of ``u`` and is not stretched. If an optimizer does not say how it decays, its decay is
    stretched with its step.

    Weights are chosen as in :class:`EndToEnd`; ``print(optimizer.routing())`` shows them.
    Everything else goes to the inner optimizer as it is, or to the ``fallback``. The optimizer
    itself has no state. Stretched parameters in half precision are updated in float32, in which
    their state is kept too, and rounded once a step.

    Args:
        params: a model, or parameters, named parameters, or groups, as for :class:`EndToEnd`.
        lr: learning rate; by default that of the inner optimizer.
        inner: a class, a name such as ``"adamw"``, or a function of groups and options.
        radial: ``r``, a number of at least 0.
        granularity: what counts as one ``W``: the whole "tensor", each "row" of its matrices, or
            each "matrix".
        metric: "auto" as above, "adam" or "euclidean".
        targets, exclude, overrides, fallback, fallback_options: as for :class:`EndToEnd`.
        **inner_options: options of the inner optimizer.

    Raises:
        TypeError: as for :class:`EndToEnd`.
        ValueError: as for :class:`EndToEnd`; ``metric="adam"`` with another inner optimizer.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = Radial(model, lr=1e-3, inner="adamw", radial=4)
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        inner: Inner = torch.optim.AdamW,
        radial: float = 2.0,
        *,
        granularity: Literal["tensor", "row", "matrix"] = "tensor",
        metric: Literal["auto", "adam", "euclidean"] = "auto",
        targets: Targets | None = None,
        exclude: Targets | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        fallback: Inner | None = None,
        fallback_options: Mapping[str, Any] | None = None,
        **inner_options: Any,
    ) -> None:
        own = {"radial": radial, "granularity": granularity, "metric": metric}
        choice = Choice(targets, exclude, overrides or {})
        super().__init__(params, lr, inner, own, inner_options, choice, fallback, fallback_options)

    @uncompiled  # state would be guards
    def _step(self) -> None:
        moved = self._inner_step()
        for each in moved:
            if self._is_stretched(each.view, each.group):
                self._stretch(each)
        self._settle(moved)

    def _stretch(self, moved: StandIn) -> None:
        """Stretch the step that a weight has just taken."""
        group, p, view = moved.group, moved.tensor, moved.view
        assert view is not None  # checked by the caller
        radial, lr = float(group["radial"]), group["lr"]
        parts = sharded.vectors_of(p, view, group["granularity"])
        before, now = parts.split(moved.before[0][1]), parts.split(p)
        if self._in_adams_metric(group):
            m, s = (parts.split(term) for term in self._adam_terms(moved))
            stretched = radial_stretch_in_metric(
                before, now - before, m, s, lr, radial, parts.total
            )
            new = before + stretched
        else:
            start = start_of_step(self._inner, group, before)  # decay is not stretched
            new = start + radial_stretch(before, now - start, radial, parts.total)
        parts.write(new, p)

    def _adam_terms(self, moved: StandIn) -> tuple[Tensor, Tensor]:
        """The bias-corrected mean of gradients and the metric of Adam's last step."""
        state, group, p = self.state[moved.p], moved.group, moved.tensor
        count: Tensor = state["step"]  # torch.as_tensor would take it to the default device
        if count.device.type != "cpu":  # captured steps count on the device
            count = count.to(p.dtype)
        first, second = (bias_correction(beta, count) for beta in group["betas"])
        square = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
        return state["exp_avg"] / first, (square / second).sqrt() + group["eps"]

    def _in_adams_metric(self, group: Group) -> bool:
        if group["metric"] == "auto":
            return type(self._inner) in _ADAM
        return group["metric"] == "adam"

    def _is_stretched(self, view: MatrixView | None, group: Group) -> bool:
        return view is not None and not group.get("fallback") and group["radial"] != 1

    def _stand_ins(self, p: Tensor, view: MatrixView | None, group: Group) -> list[StandIn]:
        if not self._is_stretched(view, group) or state_dtype(p) == p.dtype:
            return [StandIn(p, p, "", group, view)]
        wide = p.detach().to(state_dtype(p))
        wide.grad = None if p.grad is None else p.grad.to(wide.dtype)
        return [StandIn(p, wide, "", group, view)]

    def _check_options(self, group: Group) -> None:
        radial = group["radial"] = plain_number(group["radial"])
        if isinstance(radial, bool) or not isinstance(radial, (int, float)):
            raise TypeError(f"radial is {radial!r}; use a number of at least 0.")
        if not 0 <= radial < math.inf:
            raise ValueError(f"radial is {radial}; use a finite number of at least 0.")
        for name, allowed in (("granularity", _GRANULARITIES), ("metric", _METRICS)):
            if group[name] not in allowed:
                raise ValueError(f"{name} is {group[name]!r}; use one of {', '.join(allowed)}.")
        if group["metric"] == "adam" and type(self._inner) not in _ADAM:
            raise ValueError(
                f"metric='adam' is for Adam and AdamW, and inner is {type(self._inner).__name__}; "
                "use metric='auto'."
            )
        if group.get("differentiable"):
            raise ValueError("differentiable=True: gradients do not flow through Radial.")

    def _row(self, p: Tensor, view: MatrixView | None, group: Group) -> Row:
        if not self._is_stretched(view, group):
            return PLAIN, ["radial 1 is the inner optimizer"] * (view is not None), None
        return "radial", [f"{group['radial']:g} times along each {group['granularity']}"], None
