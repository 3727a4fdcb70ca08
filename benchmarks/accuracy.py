"""Accuracy of the float32 update in a basis that follows a moving weight, for benchmarks/optim.py.

    python benchmarks/accuracy.py [--device cuda] [--shapes 256x256,768x768] [--steps 150]

prints what a stale basis costs: the error of the update, and the loss of a small transformer on
text (in the folder that the environment variable OVERPARAM_DATA names) after training with it.
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch
from measure import print_table
from tasks import char_transformer
from torch import Tensor

from overparam import end_to_end_update
from overparam.optim import EndToEnd
from overparam.rule.basis import basis_error, exact_left_basis, jacobi_sweep, rotated_gram
from overparam.rule.fast import update_in_basis

EVERY = (1, 5, 10, 20)


def weight_to_move(kind: str, m: int, n: int, device: str) -> Tensor:
    """A "Gaussian" weight, or one of "low rank + noise".

    Of the latter an eighth of the singular values lies between 1 and 1/2, the others at 1e-3.
    """
    weight = torch.randn(m, n, device=device) / n**0.5
    if kind == "Gaussian":
        return weight
    spectrum = torch.full((min(m, n),), 1e-3, device=device)
    large = min(m, n) // 8
    spectrum[:large] = torch.linspace(1, 0.5, large, device=device)
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    return (left * spectrum) @ right


def shaken(weight: Tensor, move: float) -> Tensor:
    """The weight after a random step of ``move`` times its norm."""
    noise = torch.randn_like(weight)
    return weight + noise * (move * weight.norm() / noise.norm())


def print_accuracy(sizes: list[tuple[int, int]], device: str) -> None:
    """Relative error of the float32 update, and of its basis, while the weight moves randomly."""
    lines = []
    depths = (1.5, 2, 3, 4)
    for (m, n), kind in itertools.product(sizes, ("Gaussian", "low rank + noise")):
        gradient = torch.randn(m, n, device=device)
        for move in (0.0, 1e-3, 1e-2):
            weight = weight_to_move(kind, m, n, device)
            left, before = exact_left_basis(weight), torch.zeros(())
            for _ in range(10 if move else 0):
                weight = shaken(weight, move)
                gram = rotated_gram(left, weight)
                before, left = basis_error(gram), jacobi_sweep(left, gram)
            after = basis_error(rotated_gram(left, weight))
            errors = []
            for depth in depths:
                truth = end_to_end_update(weight.double(), gradient.double(), depth)
                update = update_in_basis(left, weight, gradient, depth)
                errors.append(f"{((update - truth).norm() / truth.norm()).item():.1e}")
            basis = [f"{before.item():.1e}", f"{after.item():.1e}"]
            moved = f"{move:.1%} per step" if move else "exact basis"
            lines.append([f"{m} x {n}", kind, moved, *basis, *errors])
    print("\nRelative error of the float32 update against the float64 reference\n")
    header = ["shape", "weight", "moves", "basis before sweep", "after"]
    print_table([*header, *(f"N = {depth:g}" for depth in depths)], lines)


def print_stale(sizes: list[tuple[int, int]], device: str) -> None:
    """Relative error of the update (N = 2) just before the basis is swept again."""
    lines = []
    for (m, n), kind in itertools.product(sizes, ("Gaussian", "low rank + noise")):
        gradient = torch.randn(m, n, device=device)
        for move in (1e-3, 1e-2):
            errors = []
            for every in EVERY:
                weight = weight_to_move(kind, m, n, device)
                left = exact_left_basis(weight)
                for step in range(2 * every):
                    weight = shaken(weight, move)
                    if step % every == 0:
                        left = jacobi_sweep(left, rotated_gram(left, weight))
                truth = end_to_end_update(weight.double(), gradient.double(), 2)
                update = update_in_basis(left, weight, gradient, 2)
                error, cosine = (update - truth).norm() / truth.norm(), (update * gradient).sum()
                errors.append(f"{error.item():.1e}{'' if cosine > 0 else ', ascends'}")
            lines.append([f"{m} x {n}", kind, f"{move:.1%} per step", *errors])
    print("\nRelative error of the update (N = 2) in the last step before a sweep\n")
    print_table(["shape", "weight", "moves", *(f"basis_every={every}" for every in EVERY)], lines)


def print_losses(steps: int, device: str, rates: tuple[float, ...] = (0.1, 0.3)) -> None:
    """Mean loss of the last tenth of a training, the best of some learning rates, and its time."""
    lines = []
    for basis, every in itertools.product(("exact", "tracked"), EVERY):
        found = []
        for lr in rates:
            task = char_transformer(0)
            model = task.model.to(device)
            optimizer = EndToEnd(model, lr, momentum=0.9, basis=basis, basis_every=every)
            losses, spent = [], 0.0
            for inputs, targets in itertools.islice(task.batches, steps):
                optimizer.zero_grad()
                loss = task.loss(model(inputs.to(device)), targets.to(device))
                loss.backward()
                start = time.thread_time()
                optimizer.step()
                spent += time.thread_time() - start
                losses.append(loss.detach())
            found.append((torch.stack(losses[-steps // 10 :]).mean().item(), lr, spent / steps))
        loss, lr, spent = min(found)
        lines.append([basis, f"{every}", f"{loss:.4f}", f"{lr:g}", f"{1e3 * spent:.3g}"])
    print(f"\nCharacter transformer, {steps} steps, momentum 0.9, depth 2\n")
    print_table(["basis", "basis_every", "loss", "learning rate", "step, CPU ms"], lines)


def sizes_of(text: str) -> list[tuple[int, int]]:
    """Shapes such as "64x64,768x3072"."""
    pairs = [item.split("x") for item in text.split(",") if item]
    return [(int(m), int(n)) for m, n in pairs]


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description="What a stale basis costs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", default="256x256,256x1024")
    parser.add_argument("--steps", type=int, default=150, help="of training; 0 leaves it out")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print_stale(sizes_of(options.shapes), options.device)
    if options.steps:
        print_losses(options.steps, options.device)


if __name__ == "__main__":
    main()
