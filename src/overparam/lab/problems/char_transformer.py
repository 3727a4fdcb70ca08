"""A character transformer on tinyshakespeare."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from overparam.data.tinyshakespeare import tinyshakespeare
from overparam.lab.comparison.problem import Problem, problem


@problem("char-transformer")
def char_transformer(
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    context: int = 64,
    batch: int = 16,
    merged: bool = False,
) -> Problem:
    """Next character; the head and the embeddings are left to AdamW where Muon trains the rest.

    Attention sees queries and keys through the product ``W_Q^T W_K`` of each head alone: it is a
    product of two factors already. ``merged`` trains that product as one matrix, from the same
    function at the start, so that the two problems differ in this depth only (and in rank: one
    matrix may have full rank).
    """
    train, valid, characters = tinyshakespeare()

    def batches(seed: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(len(train) - context, (batch, 1), generator=generator)
            yield train[starts + torch.arange(context + 1)]

    def build() -> nn.Module:
        model = CharTransformer(len(characters), layers, width, heads, context)
        if merged:
            merge_(model)
        return model

    what = "characters of tinyshakespeare" + (", queries and keys merged" if merged else "")
    held_out = valid[: 32 * (context + 1)].view(32, context + 1)
    return Problem(
        title=f"Transformer of {layers} layers of {width} on the {what}",
        build=build,
        batches=batches,
        loss=next_character_loss,
        evaluate={"validation loss": lambda model: float(next_character_loss(model, held_out))},
        exclude=NOT_HIDDEN,
    )


NOT_HIDDEN = ("head", "places", "letters")


def next_character_loss(model: nn.Module, text: Tensor) -> Tensor:
    """Mean cross-entropy of each character of ``(batch, length + 1)``, given those before it."""
    return functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())


class CharTransformer(nn.Module):
    """Pre-normalized layers with causal attention."""

    def __init__(self, characters: int, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """Logits of the next character, ``(batch, length, characters)``."""
        hidden = self.letters(text) + self.places.weight[: text.shape[1]]
        return self.head(self.norm(self.layers(hidden)))


class Layer(nn.Module):
    """Attention and a perceptron; each matrix is a layer of its own, so that each has its depth."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query, self.key, self.value, self.join = (nn.Linear(width, width) for _ in range(4))
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """The hidden states after this layer, ``(batch, length, width)``."""
        normal = self.norms[0](hidden)
        query, key = self.scored(normal)
        value = self._by_head(self.value(normal))
        scale = 1 / math.sqrt(self.join.in_features // self.heads)
        attended = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale
        )
        hidden = hidden + self.join(attended.transpose(1, 2).flatten(-2))
        return hidden + self.perceptron(self.norms[1](hidden))

    def scored(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of each head, ``(batch, heads, length, ...)``."""
        return self._by_head(self.query(normal)), self._by_head(self.key(normal))

    def _by_head(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MergedLayer(Layer):
    """A layer whose scores come from one matrix for each head, ``M = W_K^T W_Q``.

    ``<W_Q x + b, W_K y> = <M x + W_K^T b, y>``; the bias of the keys adds the same to all scores of
    a query, which the softmax does not see.

    Args:
        layer: whose weights it takes over; the function stays the same up to rounding.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.join.in_features, layer.heads)
        self.to(layer.join.weight).load_state_dict(layer.state_dict())
        width = layer.join.in_features
        made = (nn.Linear(width, width).to(layer.join.weight) for _ in range(self.heads))
        self.scores = nn.ModuleList(made)
        with torch.no_grad():
            parts = (self.query.weight, self.query.bias, self.key.weight)
            by_head = (part.unflatten(0, (self.heads, -1)).unbind() for part in parts)
            for merged, query, bias, key in zip(self.scores, *by_head, strict=True):
                merged.weight.copy_(key.T @ query)
                merged.bias.copy_(key.T @ bias)
        del self.query, self.key

    def scored(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """The merged matrices act on the queries' side; the keys are the states themselves."""
        query = torch.stack([merged(normal) for merged in self.scores], 1)
        return query, normal[:, None].expand_as(query)


def merge_(model: CharTransformer) -> None:
    """Let one matrix stand for the product of queries and keys in each head of each layer."""
    for place, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        model.layers[place] = MergedLayer(layer)
