"""A character transformer on tinyshakespeare."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from overparam.data.tinyshakespeare import tinyshakespeare
from overparam.lab.comparison.problem import Problem, problem


@problem("char-transformer")
def char_transformer(
    layers: int = 2, width: int = 64, heads: int = 4, context: int = 64, batch: int = 16
) -> Problem:
    """Next character; the head and the embeddings are left to AdamW where Muon trains the rest."""
    train, valid, characters = tinyshakespeare()

    def batches(seed: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(len(train) - context, (batch, 1), generator=generator)
            yield train[starts + torch.arange(context + 1)]

    held_out = valid[: 32 * (context + 1)].view(32, context + 1)
    return Problem(
        title=f"Transformer of {layers} layers of {width} on the characters of tinyshakespeare",
        build=lambda: CharTransformer(len(characters), layers, width, heads, context),
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
        parts = (
            layer(normal).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(*parts, is_causal=True)
        hidden = hidden + self.join(attended.transpose(1, 2).flatten(-2))
        return hidden + self.perceptron(self.norms[1](hidden))
