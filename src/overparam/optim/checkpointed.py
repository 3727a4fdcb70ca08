"""Saving, loading and copying an optimizer that is made of an inner one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from overparam.layers.choice import Choice
from overparam.layers.entries import complete_views
from overparam.optim.inner import Copies, StandIn, State


class Checkpointed(Optimizer):
    """What torch's own loading, pickling and copying lack for state of several dtypes."""

    _own_state: ClassVar[frozenset[str]] = frozenset()
    """Names in ``state[p]`` that are not the inner optimizer's."""
    _structure: ClassVar[tuple[str, ...]] = ("views",)
    """Options that belong to this optimizer, and are not taken from a checkpoint."""
    _inner: Optimizer
    _fallback: Optimizer | None

    def _align_views(self) -> None:
        raise NotImplementedError

    def _linked(self) -> AbstractContextManager[tuple[list[Optimizer], list[StandIn]]]:
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load state bit for bit: what is kept here, and all of half precision, in its own dtype.

        Other floating state takes the dtype of its parameter, as torch loads it.

        The reading of the layers stays that of this optimizer, and options that the checkpoint
        does not have keep their present values.

        Raises:
            ValueError: the checkpoint does not fit; nothing has changed.
        """
        loaded: dict[str, Any] = {}

        def complete(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            self._align_views()
            loaded.update(given)
            groups = given["param_groups"]
            if len(groups) == len(self.param_groups):  # torch refuses others
                loaded["state"] = self._understood(given)
                pairs = zip(self.param_groups, groups, strict=True)
                loaded["param_groups"] = [self._completed(group, saved) for group, saved in pairs]
            return dict(loaded)

        def exactly(_: Optimizer) -> None:
            self._take_over(loaded)

        before = self.register_load_state_dict_pre_hook(complete)
        after = self.register_load_state_dict_post_hook(exactly, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _completed(self, group: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
        """The options of a saved group, with those of the present one in the place of others."""
        beside = ("params", "param_names")
        now = {name: value for name, value in group.items() if name not in beside}
        return {**now, **saved, **{name: now[name] for name in self._structure if name in now}}

    def _understood(self, state_dict: dict[str, Any]) -> dict[Any, State]:
        """The saved state in today's form; raises by name where it cannot be read."""
        return state_dict["state"]

    def _take_over(self, loaded: dict[str, Any]) -> None:
        """Undo what torch's loading does to dtypes, and let the inner optimizer complete it."""
        for group, saved in zip(self.param_groups, loaded["param_groups"], strict=True):
            on_device = bool(group.get("capturable") or group.get("fused"))
            for p, index in zip(group["params"], saved["params"], strict=True):
                saved_state = loaded["state"].get(index, {})
                for name, value in saved_state.items():
                    if isinstance(value, Tensor) and self._keeps_dtype(p, name, value):
                        stays = name.endswith("step") and not on_device
                        device = value.device if stays else p.device
                        self.state[p][name] = value.detach().to(device, copy=True)
        with self._linked() as (optimizers, _):
            for each in optimizers:
                each.__setstate__({"state": each.state, "param_groups": each.param_groups})

    def _keeps_dtype(self, p: Tensor, name: str, value: Tensor) -> bool:
        """Whether a saved tensor keeps its dtype; torch casts all but "step" to the parameter's."""
        half = p.dtype in (torch.float16, torch.bfloat16)
        return half or name in self._own_state or not value.is_floating_point()

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_inner": self._inner,
            "_fallback": self._fallback,
            "_choice": Choice(),  # words for modules that are yet to come; functions do not pickle
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over state; options that an older version lacks get their defaults."""
        known = "differentiable" in state.get("defaults", vars(self).get("defaults", {}))
        super().__setstate__(state)
        if not known:  # torch adds it, and groups would gain an option on loading
            self.defaults.pop("differentiable", None)
        self._views, self._copies, self._constructing = {}, Copies(), False
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            if "views" not in group:
                complete_views(group)
