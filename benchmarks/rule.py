"""How fast is the end-to-end rule: against the paper's terms in a loop, and an older version.

    python benchmarks/rule.py [--against CHECKOUT] [--shapes 64x64x64 1x768x3072] [--repeats 9]

Contenders run in turn, so that a disturbance of the machine hits all of them. The table shows the
median and the quartiles over the repeats: processor time on one thread on the CPU, wall time on a
GPU. ``--against`` names the checkout of another version to compare with.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import Contenders, measure, print_rows
from torch import Tensor

import overparam
from overparam import balanced_factors, end_to_end_update

SPECTRA = {
    "1/k": 1 / torch.arange(1, 769, dtype=torch.float64),
    "1 to 1e-10, evenly in the logarithm": torch.logspace(0, -10, 768, dtype=torch.float64),
    "half of them zero": torch.cat((torch.linspace(1, 0.1, 384), torch.zeros(384))).double(),
}
Rule = Callable[[Tensor, Tensor, float], Tensor]
SHAPES = [
    "64x8x8",
    "64x16x16",
    "64x32x32",
    "64x64x64",
    "16x128x128",
    "4x256x256",
    "1x512x512",
    "1x1024x1024",
    "1x2048x2048",
    "1x768x768",
    "1x768x3072",
    "1x3072x768",
]


def textbook_update(weight: Tensor, gradient: Tensor, depth: int) -> Tensor:
    """Theorem 1 of Arora, Cohen, Hazan (2018) term by term, with one decomposition for all powers.

    In the dtype of the weight and without care for rank, as one writes it from the paper.
    """
    left, singular, right = torch.linalg.svd(weight, full_matrices=False)
    total = torch.zeros_like(gradient)
    for j in range(1, depth + 1):
        # The zeroth power is the identity, on null directions too.
        outer = gradient if j == 1 else _power(left, singular, (j - 1) / depth) @ gradient
        last = j == depth
        total += outer if last else outer @ _power(right.mT, singular, (depth - j) / depth)
    return total


def _power(basis: Tensor, singular: Tensor, power: float) -> Tensor:
    return basis * singular ** (2 * power) @ basis.mT


def of_version(checkout: Path) -> Rule:
    """``end_to_end_update`` of another version."""
    ours = {name: module for name, module in sys.modules.items() if name.startswith("overparam")}
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(checkout / "src"))
    try:
        import overparam as other

        if other.__file__ == overparam.__file__:
            raise SystemExit(f"{checkout} is not another version.")
        return other.end_to_end_update
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.startswith("overparam")]:
            del sys.modules[name]
        sys.modules.update(ours)


def compare(weight: Tensor, gradient: Tensor, depth: int, old: Rule | None, repeats: int) -> None:
    """The rule against a loop over the textbook form and an older version, with accuracy."""
    pairs = list(zip(weight, gradient, strict=True))
    calls: dict[str, Callable[[], Tensor]] = {
        "now": lambda: end_to_end_update(weight, gradient, depth),
        "loop over the paper's terms": lambda: torch.stack(
            [textbook_update(w, g, depth) for w, g in pairs]
        ),
    }
    if old is not None:
        calls["before"] = lambda: old(weight, gradient, depth)
    contenders: Contenders = {name: _finished(call, weight.device) for name, call in calls.items()}
    clock = time.process_time if weight.device.type == "cpu" else time.perf_counter
    if weight.numel() > 2**20:
        repeats = max(3, repeats // 3)
    print_rows(measure(contenders, repeats, clock), against="now")
    wide, slope = weight.double().cpu(), gradient.double().cpu()
    truth = torch.stack([textbook_update(w, g, depth) for w, g in zip(wide, slope, strict=True)])
    for name, call in calls.items():
        away = torch.linalg.matrix_norm(call().double().cpu() - truth)
        error = (away / torch.linalg.matrix_norm(truth)).max().item()
        print(f"  {name:34} differs from LAPACK in float64 by {error:.1e}")


def _finished(call: Callable[[], Tensor], device: torch.device) -> Callable[[], object]:
    if device.type == "cpu":
        return call
    return lambda: (call(), torch.cuda.synchronize())


def compare_spectra(dtypes: list[torch.dtype], old: Rule | None, repeats: int) -> None:
    """The rule of depth 2 at weights of 768 x 768 with other singular values than random ones."""
    generator = torch.Generator().manual_seed(0)
    size = len(SPECTRA["1/k"])
    pair = torch.randn(2, size, size, generator=generator, dtype=torch.float64)
    left, right = torch.linalg.qr(pair).Q
    for name, singular in SPECTRA.items():
        weight = (left * singular @ right)[None]
        for dtype in dtypes:
            print(f" singular values {name}, {dtype}", flush=True)
            compare(weight.to(dtype), pair[:1].to(dtype), 2, old, repeats)


def break_down(weight: Tensor, gradient: Tensor, repeats: int) -> None:
    """Where the time of a batch goes, next to other decompositions of the same matrices."""
    wide, slope = weight.double(), gradient.double()
    gram = wide @ wide.mT
    contenders: Contenders = {
        "now": lambda: end_to_end_update(weight, gradient, 2),
        "eigenproblem (float64)": lambda: torch.linalg.eigh(gram),
        "one matrix product (float64)": lambda: gram @ slope,
        "balanced_factors": lambda: balanced_factors(weight, 2),
        "not used: float64 svd": lambda: torch.linalg.svd(wide, full_matrices=False),
        "not used: float32 svd": lambda: torch.linalg.svd(weight.float(), full_matrices=False),
    }
    print_rows(measure(contenders, repeats, time.process_time), against="now")


def main() -> None:
    """Parse the command line and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="matrices x rows x columns")
    parser.add_argument("--depths", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"])
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--spectra", action="store_true", help="other singular values instead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    old = of_version(options.against) if options.against else None
    print(f"torch {torch.__version__}, {options.device}, one thread, {options.repeats} repeats")
    if options.spectra:
        compare_spectra([getattr(torch, name) for name in options.dtypes], old, options.repeats)
        return
    for shape in options.shapes:
        sizes = [int(size) for size in shape.split("x")]
        for dtype in (getattr(torch, name) for name in options.dtypes):
            generator = torch.Generator().manual_seed(0)
            pair = torch.randn(2, *sizes, generator=generator, dtype=torch.float64)
            weight, gradient = pair.to(options.device, dtype)
            for depth in options.depths:
                print(f" {shape}, {dtype}, depth {depth}", flush=True)
                compare(weight, gradient, depth, old, options.repeats)
            if options.device == "cpu" and shape in ("64x64x64", "1x768x3072"):
                print(f" {shape}, {dtype}, depth 2: where the time goes")
                break_down(weight, gradient, max(3, options.repeats // 3))


if __name__ == "__main__":
    main()
