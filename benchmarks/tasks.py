"""Two small problems of real data: a network of convolutions on MNIST, a transformer on text.

Each gives a fresh model, the loss and an endless stream of batches; the seed decides all of it.
Data come from the folder that the environment variable OVERPARAM_DATA names.
"""

from __future__ import annotations

import functools
import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from gpt2 import Block
from torch import Tensor, nn
from torch.nn import functional

CONTEXT, WIDTH, HEADS, LAYERS = 64, 64, 4, 2
MNIST_BATCH, TEXT_BATCH = 64, 16


class Task(NamedTuple):
    """A model, and its loss: ``loss(model(inputs), targets)`` on each pair of batches."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    batches: Iterator[tuple[Tensor, Tensor]]


def mnist_cnn(seed: int) -> Task:
    """Two convolutions and two linear layers, 30,762 parameters, batches of 64 digits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(800, 32), nn.ReLU(), nn.Linear(32, 10)),
        )
    return Task(model, functional.cross_entropy, _digits(seed))


def char_transformer(seed: int) -> Task:
    """Two layers of width 64 that predict the next character, context 64, 16 passages a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CharTransformer(len(_text()[1]))
    return Task(model, _next_character_loss, _passages(seed))


class CharTransformer(nn.Module):
    """Transformer that reads to the left, normalized before each part, initialized as GPT-2."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS, "none") for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(batch, length)`` to logits ``(batch, length, vocabulary)``."""
        hidden = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(hidden)))


def _next_character_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _digits(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = _mnist()
    generator = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(labels), (MNIST_BATCH,), generator=generator)
        yield (images[chosen, None].float() / 255 - 0.1307) / 0.3081, labels[chosen].long()


def _passages(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    text = _text()[0]
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - CONTEXT, (TEXT_BATCH, 1), generator=generator)
        passage = text[starts + torch.arange(CONTEXT + 1)]
        yield passage[:, :-1], passage[:, 1:]


def _data() -> Path:
    if "OVERPARAM_DATA" not in os.environ:
        raise SystemExit("Set OVERPARAM_DATA to the folder that holds mnist and tinyshakespeare.")
    return Path(os.environ["OVERPARAM_DATA"])


@functools.cache
def _mnist() -> tuple[Tensor, Tensor]:
    """Training images and labels: IDX files, with headers of 16 and of 8 bytes."""
    images, labels = (
        torch.frombuffer(bytearray(gzip.decompress(path.read_bytes())), dtype=torch.uint8)
        for path in sorted((_data() / "mnist").glob("train-*-ubyte.gz"))
    )
    return images[16:].reshape(-1, 28, 28), labels[8:]


@functools.cache
def _text() -> tuple[Tensor, str]:
    """Tinyshakespeare as numbers, and the characters that they stand for."""
    text = (_data() / "tinyshakespeare" / "input.txt").read_text()
    letters = "".join(sorted(set(text)))
    number_of = {letter: number for number, letter in enumerate(letters)}
    return torch.tensor([number_of[letter] for letter in text]), letters
