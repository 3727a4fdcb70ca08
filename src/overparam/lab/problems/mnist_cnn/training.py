"""Trains the network and records cross-entropy and penalty apart; can stop and resume at any step.

Weights are float32. The same settings give the same bytes on the same device with the same number
of threads; workers use one thread each.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from torch import Tensor

from overparam.data import ImageData
from overparam.lab.problems.mnist_cnn.network import (
    Layer,
    Network,
    initial_network,
    logits,
    network_inputs,
)
from overparam.lab.problems.mnist_cnn.penalty import penalty
from overparam.lab.problems.mnist_cnn.study import VARIANTS, CnnStudy, random_source

_EVALUATION_BATCH = 500


class CnnTraining:
    """Stochastic gradient descent with momentum on cross-entropy plus penalty.

    As in the tutorial, batches are taken in the order of the data, without shuffling: the batch of
    step ``t`` starts at image ``t * batch`` modulo (number of images - ``batch``). A run whose loss
    is not finite has diverged and ends.

    Args:
        study: the settings.
        variant: a key of :data:`overparam.lab.problems.mnist_cnn.study.VARIANTS`.
        rate: initial learning rate.
        seed: seed of weights and dropout.
        data: the images.

    Attributes:
        step: number of steps done.
        records: for each recorded step so far: the step; the cross-entropy of the last batch after
            its step and with a new dropout mask, as the tutorial prints it; the mean cross-entropy
            of all batches since the previous record, each before its own step; the penalty;
            validation and test error (shares; NaN if they are not evaluated at this step).
        diverged_at: the step at which the loss was not finite, or None.

    Raises:
        ValueError: the data has too few images for the study.
    """

    def __init__(
        self, study: CnnStudy, variant: str, rate: float, seed: int, data: ImageData
    ) -> None:
        if len(data.images) <= study.held_out + study.batch:
            raise ValueError(
                f"{data.name} has {len(data.images)} images to train on, but the study holds out "
                f"{study.held_out} and needs more than one batch of {study.batch} beside them; use "
                "a smaller held_out or batch."
            )
        self.study, self.rate, self.data = study, rate, data
        self.penalty_on = VARIANTS[variant].penalty
        self.step = 0
        self.records: list[tuple[float, ...]] = []
        self.diverged_at: int | None = None
        depth = VARIANTS[variant].depth
        start = initial_network(study.shape, depth, study.init_std, random_source(seed, "weights"))
        self.network = _trainable(start, torch.device(study.device))
        self._optimizer = torch.optim.SGD(self.network.tensors(), lr=rate, momentum=study.momentum)
        # Two sources, so that recording more often does not change the training.
        self._dropout = random_source(seed, "dropout")
        self._recorded_dropout = random_source(seed, "recorded")
        self._since: list[float] = []

    @property
    def finished(self) -> bool:
        """Whether the last step is recorded, or the run has diverged."""
        recorded_all = len(self.records) == len(self.study.record_steps)
        return recorded_all or self.diverged_at is not None

    def advance(self, steps: int) -> None:
        """Train for at most ``steps`` steps."""
        # On a GPU the fast convolutions are neither exact nor deterministic.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            for _ in range(steps):
                if self.finished:
                    return
                if self.step == self.study.record_steps[len(self.records)]:
                    self._record()
                    if self.finished:
                        return
                self._descend()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue training."""
        return {
            "step": self.step,
            "records": self.records,
            "diverged_at": self.diverged_at,
            "network": [tensor.detach() for tensor in self.network.tensors()],
            "optimizer": self._optimizer.state_dict(),
            "dropout": self._dropout.get_state(),
            "recorded_dropout": self._recorded_dropout.get_state(),
            "since": self._since,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved by the same run."""
        self.step, self.records = state["step"], state["records"]
        self.diverged_at, self._since = state["diverged_at"], state["since"]
        with torch.no_grad():
            for tensor, saved in zip(self.network.tensors(), state["network"], strict=True):
                tensor.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._dropout.set_state(state["dropout"])
        self._recorded_dropout.set_state(state["recorded_dropout"])

    def _descend(self) -> None:
        cross_entropy = self._cross_entropy(self.step, self._dropout)
        value, gradients = self._penalty()
        loss = (cross_entropy.detach() + value).item()
        if not math.isfinite(loss):
            self.diverged_at = self.step
            return
        self._since.append(cross_entropy.item())
        self._optimizer.zero_grad()
        cross_entropy.backward()
        for layer, own in zip(self.network.dense, gradients, strict=False):
            for tensor, gradient in zip((*layer.factors, layer.bias), own, strict=True):
                tensor.grad = gradient if tensor.grad is None else tensor.grad.add_(gradient)
        for group in self._optimizer.param_groups:
            group["lr"] = self.study.rate_at(self.rate, self.step)
        self._optimizer.step()
        self.step += 1

    def _cross_entropy(self, step: int, dropout: torch.Generator) -> Tensor:
        """Mean cross-entropy of the batch of one step, with a new dropout mask."""
        study = self.study
        count = len(self.data.images) - study.held_out
        start = study.held_out + step * study.batch % (count - study.batch)
        batch = slice(start, start + study.batch)
        keep = 1 - study.dropout
        kept = (torch.rand(study.batch, study.hidden, generator=dropout) < keep).float() / keep
        inputs = network_inputs(self.data.images[batch], study.side).to(study.device)
        outputs = logits(self.network, inputs, kept.to(study.device))
        return F.cross_entropy(outputs, self.data.labels[batch].to(study.device))

    def _penalty(self) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        with torch.no_grad():
            return penalty(self.network.dense, self.penalty_on, self.study.penalty)

    def _record(self) -> None:
        with torch.no_grad():
            batch = self._cross_entropy(max(self.step - 1, 0), self._recorded_dropout).item()
        mean = math.fsum(self._since) / len(self._since) if self._since else batch
        self._since = []
        errors = (math.nan, math.nan)
        if self.study.evaluates(self.step):
            held = self.study.held_out
            errors = (
                self._error(self.data.images[:held], self.data.labels[:held]),
                self._error(self.data.test_images, self.data.test_labels),
            )
        self.records.append((self.step, batch, mean, self._penalty()[0].item(), *errors))

    @torch.no_grad()
    def _error(self, images: Tensor, labels: Tensor) -> float:
        """Share of images that are classified wrongly."""
        count = min(len(images), self.study.evaluated or len(images))
        wrong = 0
        for start in range(0, count, _EVALUATION_BATCH):
            batch = slice(start, min(start + _EVALUATION_BATCH, count))
            inputs = network_inputs(images[batch], self.study.side).to(self.study.device)
            found = logits(self.network, inputs).argmax(dim=1).cpu()
            wrong += int((found != labels[batch]).sum())
        return wrong / count


def _trainable(network: Network, device: torch.device) -> Network:
    def moved(layer: Layer) -> Layer:
        factors = tuple(factor.to(device).requires_grad_() for factor in layer.factors)
        return Layer(factors, layer.bias.to(device).requires_grad_())

    first, second = map(moved, network.convolutions)
    hidden, last = map(moved, network.dense)
    return Network((first, second), (hidden, last))
