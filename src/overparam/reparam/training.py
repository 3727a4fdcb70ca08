"""Gradient clipping and weight averaging that mean the weight, not its factors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from overparam.factors.linearize import gradient_from_factors
from overparam.layers.places import parametrizations_of
from overparam.reparam.attach import factors_of, places
from overparam.reparam.collapse import collapse
from overparam.reparam.product import current_weight, holds_product


def weight_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient at every weight of a model, products included, from what ``backward`` left.

    For a product it is recovered from the gradients of its factors (least squares, exact where W
    has full rank), after any averaging over processes. Costs many products for each weight.

    Returns:
        Gradients by the names of the plain model; those without gradient are left out.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from overparam.reparam import overparameterize
        >>> model = overparameterize(nn.Linear(3, 2, bias=False))
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> torch.allclose(weight_gradients(model)["weight"], torch.ones(2, 3), atol=1e-5)
        True
    """
    gradients: dict[str, Tensor] = {}
    done: set[int] = set()
    for place in places(model):
        factors = factors_of(place.factors)
        if id(factors[0]) in done:
            continue
        done.update(id(factor) for factor in factors)
        parts = [factor.grad for factor in factors if factor.grad is not None]
        if len(parts) == len(factors):
            gradients[place.name] = gradient_from_factors(place.layout, factors, parts)
    for name, parameter in model.named_parameters():
        if id(parameter) not in done and parameter.grad is not None:
            gradients[name] = parameter.grad
    return gradients


def clip_grad_norm_(model: nn.Module, max_norm: float, *, norm_type: float = 2.0) -> Tensor:
    """Clip as ``torch.nn.utils.clip_grad_norm_`` would on the plain model.

    The total norm is that of the gradients at the weights. Gradients at the factors are linear in
    them, so scaling the former scales the latter. ``torch.nn.utils.clip_grad_norm_`` itself is
    cheaper, and clips by the norm of the factors' gradients.

    Returns:
        The total norm before clipping.
    """
    norms = [torch.linalg.vector_norm(g, norm_type) for g in weight_gradients(model).values()]
    total = torch.linalg.vector_norm(torch.stack(norms), norm_type) if norms else torch.zeros(())
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, total)
    return total


class AveragedWeights(AveragedModel):
    """Averages of the weights themselves: means of products, not products of means.

    torch's own class averages the factors, and the product of means is not the mean of products.
    The averaged model is plain; arguments as for the base class.

    Example:
        >>> from torch import nn
        >>> from overparam.reparam import overparameterize
        >>> model = overparameterize(nn.Linear(3, 2))
        >>> average = AveragedWeights(model)
        >>> average.update_parameters(model)
        >>> list(average.module.state_dict())
        ['weight', 'bias']
    """

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        collapse(self.module)

    def update_parameters(self, model: nn.Module) -> None:
        """Take the present weights of ``model`` into the average; the model is not touched."""
        with torch.no_grad():
            super().update_parameters(_PlainView(model))  # pyright: ignore[reportArgumentType]


class _PlainView:
    """The parameters and buffers that a model would have without products, in their order."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def parameters(self) -> Iterator[Tensor]:
        """Each once, products by their value."""
        seen: set[int] = set()
        for module in self._model.modules():
            if isinstance(module, parametrize.ParametrizationList) and holds_product(module):
                continue
            held = parametrizations_of(module)
            products = {name: each for name, each in held.items() if holds_product(each)}
            order = getattr(module.parametrizations, "original_order", ()) if products else ()
            for name in dict.fromkeys((*order, *module._parameters)):
                source = products.get(name, module._parameters.get(name))
                if source is not None and id(source) not in seen:
                    seen.add(id(source))
                    yield current_weight(source) if name in products else source  # pyright: ignore

    def buffers(self) -> Iterator[Tensor]:
        """As in the model."""
        return self._model.buffers()
