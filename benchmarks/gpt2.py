"""The parameters of GPT-2 small, and its training step, for benchmarks/optim.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, LAYERS, CONTEXT, VOCABULARY = 768, 12, 12, 1024, 50257


class Block(nn.Module):
    """Attention and feed-forward layer, each normalized first and added."""

    def __init__(self, width: int, heads: int, approximate: str = "tanh") -> None:
        super().__init__()
        self.heads, self.approximate = heads, approximate
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(batch, length, width)`` to the same."""
        heads = self.attend(self.first_norm(hidden)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        hidden = hidden + self.mix(mixed.transpose(1, 2).flatten(2))
        wide = functional.gelu(self.widen(self.second_norm(hidden)), approximate=self.approximate)
        return hidden + self.narrow(wide)


class GPT2(nn.Module):
    """GPT-2 small: 124 million parameters with 12 layers, the head tied to the embedding."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)
        for name, p in self.named_parameters():
            if not name.endswith("norm.weight"):
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean loss of predicting each token from those before it, ``(batch, length + 1)``."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        hidden = self.words(inputs) + self.places.weight[: inputs.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        logits = functional.linear(self.norm(hidden), self.words.weight)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def training_pass(model: GPT2, tokens: int, device: str, batch: int = 8) -> None:
    """Gradients of ``tokens`` tokens, in bfloat16 products, accumulated over small batches."""
    model.zero_grad()
    rows, length = max(1, tokens // CONTEXT), min(tokens, CONTEXT)
    for start in range(0, rows, batch):
        shape = (min(batch, rows - start), length + 1)
        sample = torch.randint(VOCABULARY, shape, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            loss = model(sample)
        (loss * shape[0] / rows).backward()
