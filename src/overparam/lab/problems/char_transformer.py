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

    def loss(model: nn.Module, text: Tensor) -> Tensor:
        return functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())

    held_out = valid[: 32 * (context + 1)].view(32, context + 1)
    return Problem(
        title=f"Transformer of {layers} layers of {width} on the characters of tinyshakespeare",
        build=lambda: CharTransformer(len(characters), layers, width, heads, context),
        batches=batches,
        loss=loss,
        evaluate={"validation loss": lambda model: float(loss(model, held_out))},
        exclude=("head", "places", "letters"),
    )


class CharTransformer(nn.Module):
    """Pre-normalized layers with causal attention."""

    def __init__(self, characters: int, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        self.register_buffer("mask", torch.ones(context, context).triu(1).bool(), persistent=False)

    def forward(self, text: Tensor) -> Tensor:
        """Logits of the next character, ``(batch, length, characters)``."""
        length = text.shape[1]
        hidden = self.letters(text) + self.places(torch.arange(length))
        for layer in self.layers:
            hidden = layer(hidden, self.get_buffer("mask")[:length, :length])
        return self.head(self.norm(hidden))
