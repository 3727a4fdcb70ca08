"""How fast is the end-to-end rule: a batch of matrices against a Python loop over them.

    python benchmarks/rule.py [--count 64] [--size 64] [--repeats 15]

Contenders run in turn, so that a disturbance of the machine hits all of them; the table shows the
median and the quartiles over the repeats.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from measure import Contenders, measure, print_rows
from torch import Tensor

from overparam import end_to_end_update

DTYPES = (torch.float64, torch.float32)


def textbook_update(weight: Tensor, gradient: Tensor, depth: int) -> Tensor:
    """Theorem 1 of Arora, Cohen, Hazan (2018) term by term, with one decomposition for all powers.

    In the dtype of the weight and without care for rank, as one writes it from the paper.
    """
    left, singular, right = torch.linalg.svd(weight)
    total = torch.zeros_like(gradient)
    for j in range(1, depth + 1):
        outer = left * singular ** (2 * (j - 1) / depth) @ left.mT
        inner = right.mT * singular ** (2 * (depth - j) / depth) @ right
        total += outer @ gradient @ inner
    return total


def compare(weight: Tensor, gradient: Tensor, depth: int, repeats: int) -> None:
    """The batch against a loop over the same function and over the textbook form."""
    pairs = list(zip(weight, gradient, strict=True))
    contenders: Contenders = {
        "batch": lambda: end_to_end_update(weight, gradient, depth),
        "loop, same function": lambda: [end_to_end_update(w, g, depth) for w, g in pairs],
        "loop, textbook terms": lambda: [textbook_update(w, g, depth) for w, g in pairs],
    }
    print_rows(measure(contenders, repeats), against="batch")


def break_down(weight: Tensor, gradient: Tensor, repeats: int) -> None:
    """Where the time of a batch goes, next to other decompositions of the same matrices."""
    wide, slope = weight.double(), gradient.double()
    gram = wide @ wide.mT
    contenders: Contenders = {
        "batch": lambda: end_to_end_update(weight, gradient, 2),
        "decomposition (float64 svd)": lambda: torch.linalg.svd(wide, full_matrices=False),
        "four matrix products": lambda: wide @ (slope @ (wide @ (wide @ slope))),
        "not used: float64 eigh of Gram": lambda: torch.linalg.eigh(gram),
        "not used: float32 svd": lambda: torch.linalg.svd(weight.float(), full_matrices=False),
    }
    seconds = measure(contenders, repeats)
    rest = zip(*(seconds[name] for name in list(contenders)[:3]), strict=True)
    seconds["rest (kernel, scaling, checks)"] = [a - b - c for a, b, c in rest]
    print_rows(seconds, against="batch")


def print_product_rate(count: int, size: int, repeats: int) -> None:
    """Matrix products of the machine: in a batch of this size, and one large matrix."""
    for dtype in DTYPES:
        small, large = torch.randn(count, size, size).to(dtype), torch.randn(1024, 1024).to(dtype)
        calls: Contenders = {"batch": lambda x=small: x @ x, "large": lambda x=large: x @ x}
        medians = {k: statistics.median(v) for k, v in measure(calls, repeats).items()}
        print(
            f"  {dtype}: {2e-9 * count * size**3 / medians['batch']:.1f} GFLOP/s in the batch, "
            f"{2e-9 * 1024**3 / medians['large']:.1f} at 1024 x 1024"
        )


def main() -> None:
    """Parse the command line and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=64, help="matrices in the batch")
    parser.add_argument("--size", type=int, default=64, help="rows and columns of each")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    count, size, repeats = options.count, options.size, options.repeats
    default_threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {count} matrices of {size} x {size}, {repeats} repeats")
    for threads in sorted({1, default_threads}):
        torch.set_num_threads(threads)
        print(f"\n{threads} thread(s)")
        print_product_rate(count, size, repeats)
        for dtype in DTYPES:
            generator = torch.Generator().manual_seed(0)
            weight, gradient = torch.randn(2, count, size, size, generator=generator).to(dtype)
            for depth in (2, 3):
                print(f" {dtype}, depth {depth}")
                compare(weight, gradient, depth, repeats)
            print(f" {dtype}, depth 2: where the time goes")
            break_down(weight, gradient, repeats)


if __name__ == "__main__":
    main()
