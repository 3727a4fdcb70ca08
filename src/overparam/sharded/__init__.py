"""Optimizers on parameters that several processes hold together: who computes what, and how.

The optimizers come in by the functions of this file. What they lead to is imported when the first
DTensor turns up: ``torch.distributed.tensor`` takes a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import Parameter

from overparam.layers.entries import names_of
from overparam.layers.groups import parameter_names
from overparam.layers.views import MatrixView
from overparam.sharded.vectors import Vectors

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from overparam.factors.layout import MatrixLayout
    from overparam.factors.store import Weight
    from overparam.optim.direction import Item, Write
    from overparam.optim.factored import Factored
    from overparam.sharded.owned import Owned


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, as ``fully_shard`` and tensor parallelism make them."""
    kind = type(tensor)  # every step asks this of every parameter
    return kind is not Parameter and kind is not Tensor and hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, where it is not a DTensor."""
    return tensor.to_local() if is_dtensor(tensor) else tensor  # pyright: ignore


def check_layouts(group: dict[str, Any]) -> None:
    """Raise where a DTensor of a group is laid out in a way that the optimizers do not take.

    Raises:
        ValueError: names the parameter and its placement.
    """
    for name, p in zip(names_of(group, ""), group["params"], strict=True):
        if is_dtensor(p):
            from overparam.sharded.layout import check_layout

            check_layout(name, p)


def check_alone(
    word: str, groups: Sequence[dict[str, Any]], among: ProcessGroup | None = None
) -> None:
    """Raise where several processes share parameters.

    Raises:
        NotImplementedError: names what is for one process.
    """
    if any(is_shared(p, among) for group in groups for p in group["params"]):
        raise NotImplementedError(
            f"{word} is for one process, and several share these parameters: save a checkpoint, "
            f"load it in one process, and call {word} there."
        )


def is_zero(p: Tensor) -> bool:
    """Whether a tensor is zero, on all processes."""
    if not is_dtensor(p):
        return not bool(p.any())
    from overparam.sharded import agreement

    return agreement.is_zero(p)


def gradient_of(p: Tensor) -> Tensor:
    """The gradient of a DTensor, in its layout: pending sums are made."""
    from overparam.sharded.layout import gradient_like

    assert p.grad is not None
    return gradient_like(p, p.grad)


def is_shared(p: Tensor, among: ProcessGroup | None) -> bool:
    """Whether the work on a parameter is for several processes."""
    return among is not None or is_dtensor(p)


def parted(
    items: Sequence[Item], among: ProcessGroup | None = None
) -> tuple[list[Item], list[Item]]:
    """Items whose parameters are for this process alone, and those for several."""
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        parts[is_shared(item.p, among)].append(item)
    return parts


def check_presence(groups: Sequence[dict[str, Any]], among: ProcessGroup | None) -> None:
    """Raise on all processes where some have a gradient of a shared parameter and others none.

    On an accelerator, where this would make the host wait, nothing is looked at.

    Raises:
        RuntimeError: names the parameters.
    """
    if any(is_shared(p, among) for group in groups for p in group["params"]):
        from overparam.sharded import agreement

        names = parameter_names(list(groups))
        shared = {p: name for p, name in names.items() if is_shared(p, among)}
        agreement.check_presence(shared, among)


def mark_finite(items: Sequence[Item]) -> None:
    """Find out which gradients of DTensors are finite, for all processes together."""
    if items:
        from overparam.sharded import agreement

        agreement.mark_finite(items)


def vectors_of(p: Tensor, view: MatrixView, granularity: str) -> Vectors:
    """A weight as vectors, whose sums are over all processes that hold it."""
    if not is_dtensor(p):
        return Vectors(view, granularity)
    from overparam.sharded import radial

    return radial.vectors_of(p, view, granularity)


def directions_of_shards(
    items: Sequence[Item], among: ProcessGroup | None
) -> Iterator[tuple[dict[Tensor, Tensor], Write | None]]:
    """As :func:`overparam.optim.direction.directions`, for parameters of several processes."""
    if items:
        from overparam.sharded import rule

        yield from rule.directions_of_shards(items, among)


class Ownership:
    """The owners of the weights of a Factored; in a single process there are none.

    Args:
        optimizer: whose weights they are.
        among: the processes that divide the work on plain tensors.
    """

    def __init__(self, optimizer: Factored, among: ProcessGroup | None = None) -> None:
        self._optimizer, self.among = optimizer, among
        self._known: Owned | None = None

    def _owned(self, groups: Sequence[dict[str, Any]]) -> Owned | None:
        """What knows the owners, once there is something to own."""
        params = (p for group in groups for p in group["params"])
        if self._known is None and any(is_shared(p, self.among) for p in params):
            from overparam.sharded.owned import Owned

            self._known = Owned(self._optimizer, self.among)
        return self._known

    def owns(self, p: Tensor) -> bool:
        """Whether this process has the factors of a weight."""
        return self._known is None or self._known.owners.owns(p)

    def admitting(self, group: dict[str, Any]) -> AbstractContextManager[None]:
        """A new group with whole weights in the place of shards, where this process owns them."""
        owned = self._owned([group])
        return nullcontext() if owned is None else owned.admitting(group)

    def begin(self, groups: Sequence[dict[str, Any]]) -> None:
        """Send the first products of whole weights in new groups to their shards."""
        owned = self._owned(groups)
        if owned is not None:
            owned.begin(groups)

    def stepping(self) -> AbstractContextManager[None]:
        """The optimizer with whole weights and gradients of this process, for a step."""
        owned = self._owned(self._optimizer.param_groups)
        return nullcontext() if owned is None else owned.stepping()

    def moving_weights(self) -> list[Weight]:
        """The weights of this process that a step moves."""
        if self._known is not None:
            return self._known.moving_weights()
        weights = self._optimizer.store.weights(self._optimizer.param_groups)
        return [weight for weight in weights if weight[0].grad is not None]

    def pull_back(self, weights: Sequence[Weight]) -> None:
        """Give factors the gradients that follow from those of their weights."""
        if self._known is not None:
            self._known.pull_back(weights)
            return
        for p, layout, _ in weights:
            assert p.grad is not None  # chosen by it
            self._optimizer.store.pull_back(p, layout, p.grad)

    def write(self, changed: Sequence[tuple[Tensor, MatrixLayout]]) -> None:
        """Write the products of factors to weights, on all processes."""
        if self._known is not None:
            self._known.write(changed)
        else:
            self._optimizer.store.write(*changed)

    def inner_step(self) -> AbstractContextManager[None]:
        """The inner step on factors: an error at one owner becomes one of all processes."""
        return nullcontext() if self._known is None else self._known.inner_step()

    def at_work(self) -> AbstractContextManager[None]:
        """The same for all weights, without gradients."""
        owned = self._owned(self._optimizer.param_groups)
        return nullcontext() if owned is None else owned.at_work()

    def check_copy(self) -> None:
        """Raise where a copy of this process would lack what others keep of plain tensors.

        Raises:
            NotImplementedError: the work is divided.
        """
        if self.among is not None:
            raise NotImplementedError(
                "with divide_among each process keeps the factors of some weights, and a copy or a "
                "pickle would hold those alone: use state_dict(), which is complete."
            )

    def shared(self, packed: dict[str, Any]) -> dict[str, Any]:
        """A state_dict in which all processes hold parts of what one of them owns."""
        owned = self._owned(self._optimizer.param_groups)
        if owned is None:
            return packed
        from overparam.sharded import states

        groups = self._optimizer.param_groups
        owned.agree_on_names(owned.owners.shards(groups))
        return states.shared(owned.owners, groups, packed)

    def received(
        self, saved: Sequence[dict[str, Any]], states: dict[Any, dict[str, Any]]
    ) -> dict[Any, dict[str, Any]]:
        """Saved states with whole tensors at their owners."""
        owned = self._owned(self._optimizer.param_groups)
        if owned is None:
            return states
        from overparam.sharded.states import received

        return received(owned.owners, self._optimizer.param_groups, saved, states)
