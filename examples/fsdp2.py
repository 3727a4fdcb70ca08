"""Train on two processes under FSDP2, save, go on with one process: the same as one throughout.

A small GPT on a text of numbers, in float64, with EndToEnd and with Factored. Two processes train
it under ``fully_shard`` and save it with ``torch.distributed.checkpoint``; one process loads that
and goes on. Run ``python examples/fsdp2.py``: it starts the processes by itself, on the CPU.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from overparam import EndToEnd, Factored
from overparam.sharded.exchange import measured
from overparam.sharded.plan import entries_of_end_to_end, entries_of_factored

STEPS, LENGTH, WORDS, WIDTH = 5, 16, 12, 32
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "EndToEnd, exact": lambda model: EndToEnd(model, lr=0.1, momentum=0.9),
    "EndToEnd, tracked": lambda model: EndToEnd(model, lr=0.1, momentum=0.9, basis="tracked"),
    "Factored": lambda model: Factored(model, lr=3e-3, inner="adamw", eps=1e-4),
}
# Attention holds queries, keys and values, and the output; m <= n.
MATRICES = [(WIDTH, WIDTH)] * 8 + [(WIDTH, 4 * WIDTH)] * 4 + [(WORDS, WIDTH)]


class Block(nn.Module):
    """Attention to what came before, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        """The next hidden states."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        h = self.norms[0](x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.layers(self.norms[1](x))


class GPT(nn.Module):
    """Predicts the next word at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, text: Tensor) -> Tensor:
        """A score for each word."""
        x = self.words(text) + self.places(torch.arange(text.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def make_model() -> GPT:
    """The same at every start."""
    torch.manual_seed(0)
    return GPT().double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Texts that count, each in steps of its own, and what comes next."""
    generator = torch.Generator().manual_seed(step)
    first, by = torch.randint(1, WORDS, (2, 8, 1), generator=generator)
    text = (first + by * torch.arange(LENGTH + 1)) % WORDS
    return text[:, :-1], text[:, 1:]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> float:
    """Steps on whole batches, of which each process takes its part; the last loss."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    loss = torch.zeros(())
    for step in steps:
        text, following = (each.chunk(world)[rank] for each in batch(step))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(text).flatten(0, 1), following.flatten())
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def on_two_processes(rank: int, folder: str) -> None:
    """Train under fully_shard, and save."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # no one writes to what it returns
    rendezvous, patience = f"file://{folder}/rendezvous", timedelta(seconds=60)
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=patience
    )
    for name, optimizer_of in OPTIMIZERS.items():
        model = make_model()
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
        optimizer = optimizer_of(model)
        train(model, optimizer, range(STEPS - 1))
        with measured() as traffic:
            train(model, optimizer, range(STEPS - 1, STEPS))
        sent = torch.tensor(float(traffic.sent))
        dist.all_reduce(sent)
        if rank == 0:
            entries = entries_of_factored if name == "Factored" else entries_of_end_to_end
            formula = 8 * sum(entries(m, n, 2) for m, n in MATRICES)
            print(f"{name}: {sent / 2:,.0f} bytes per step and process; formula {formula:,.0f}")
        weights, state = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=f"{folder}/{name}")
    dist.destroy_process_group()


def resumed(name: str, folder: Path) -> tuple[GPT, float]:
    """One process goes on from what two have saved."""
    model = make_model()
    optimizer = OPTIMIZERS[name](model)
    weights, state = get_state_dict(model, optimizer)
    both = {"model": weights, "optimizer": state}
    dcp.load(both, checkpoint_id=folder / name, no_dist=True)
    set_state_dict(
        model, optimizer, model_state_dict=both["model"], optim_state_dict=both["optimizer"]
    )
    return model, train(model, optimizer, range(STEPS, 2 * STEPS))


def main() -> None:
    """Two processes, then one; and one throughout."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(on_two_processes, (folder,), nprocs=2)
        for name, optimizer_of in OPTIMIZERS.items():
            model, loss = resumed(name, Path(folder))
            alone = make_model()
            train(alone, optimizer_of(alone), range(2 * STEPS))
            pairs = zip(model.parameters(), alone.parameters(), strict=True)
            difference = max(float((p - q).detach().abs().max()) for p, q in pairs)
            print(f"{name}: loss {loss:.4f}; difference to one process: {difference:.1e}")
            assert difference <= 1e-12


if __name__ == "__main__":
    main()
