"""Time of one optimizer step, side by side: EndToEnd and Factored against Muon, AdamW and SGD.

    python benchmarks/optim.py [--device cuda] [--shapes 64x64,768x3072] [--seconds 20] [--tf32]

Prints markdown tables; asserts nothing. Every round runs each optimizer once, so that they see the
same machine; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from overparam import end_to_end_update
from overparam.fast_rule import update_in_basis
from overparam.optim import EndToEnd, Factored
from overparam.spectrum import basis_error, exact_left_basis, jacobi_sweep, rotated_gram

SHAPES = "64x64,128x128,256x256,512x512,768x768,768x2304,768x3072,3072x768"
# A Muon step slower than this is timed twice only.
SLOW = 5.0


def newton_schulz(gradient: Tensor) -> Tensor:
    """Muon's five iterations in float32: what Muon costs where bfloat16 is not emulated."""
    x = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.mT
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x


def contestants(shape: tuple[int, int], device: str) -> dict[str, Callable[[], object]]:
    """One step of each optimizer, on a weight and gradient of its own."""

    def parameter() -> nn.Parameter:
        p = nn.Parameter(torch.randn(shape, device=device) / shape[1] ** 0.5)
        p.grad = torch.randn(shape, device=device)
        return p

    def step(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> Callable[[], object]:
        return make([parameter()]).step

    lr = 1e-6
    gradient = torch.randn(shape, device=device)
    return {
        "Muon": step(lambda p: torch.optim.Muon(p, lr)),
        "Newton-Schulz, float32": lambda: newton_schulz(gradient),
        "AdamW": step(lambda p: torch.optim.AdamW(p, lr)),
        "SGD": step(lambda p: torch.optim.SGD(p, lr, momentum=0.9)),
        "EndToEnd, exact": step(lambda p: EndToEnd(p, lr, momentum=0.9, basis="exact")),
        "EndToEnd, tracked": step(lambda p: EndToEnd(p, lr, momentum=0.9, basis="tracked")),
        "EndToEnd, row": step(lambda p: EndToEnd(p, lr, momentum=0.9, granularity="row")),
        "EndToEnd, tensor": step(lambda p: EndToEnd(p, lr, momentum=0.9, granularity="tensor")),
        "Factored(SGD, N=2)": step(lambda p: Factored(p, torch.optim.SGD, lr=lr, momentum=0.9)),
    }


def seconds(call: Callable[[], object], device: str) -> float:
    """Wall time of one call, the device waited for."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rounds(shape: tuple[int, int], device: str, budget: float) -> dict[str, list[float]]:
    """Times of each optimizer, round by round."""
    calls = contestants(shape, device)
    warm = {name: seconds(call, device) for name, call in calls.items()}
    count = 2 if warm["Muon"] > SLOW else max(5, min(200, int(budget / sum(warm.values()))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return times


def ratio(times: dict[str, list[float]], name: str, against: str) -> str:
    """Median and quartiles of the ratios within rounds."""
    ratios = sorted(a / b for a, b in zip(times[name], times[against], strict=True))
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{statistics.median(ratios):.3g} [{low:.3g}, {high:.3g}]"


def print_times(shapes: list[tuple[int, int]], device: str, budget: float) -> None:
    """Steps of all optimizers, and the ratios that the project aims at."""
    columns = [
        ("EndToEnd, exact", "Muon"),
        ("EndToEnd, exact", "Newton-Schulz, float32"),
        ("EndToEnd, tracked", "Muon"),
        ("EndToEnd, tracked", "Newton-Schulz, float32"),
        ("Factored(SGD, N=2)", "Muon"),
        ("Factored(SGD, N=2)", "Newton-Schulz, float32"),
        ("EndToEnd, row", "AdamW"),
        ("EndToEnd, tensor", "AdamW"),
    ]
    medians, ratios = [], []
    names: list[str] = []
    for shape in shapes:
        times = rounds(shape, device, budget)
        names = list(times)
        size = f"{shape[0]} x {shape[1]}"
        rounded = [f"{1e3 * statistics.median(each):.3g}" for each in times.values()]
        medians.append([size, str(len(times["Muon"])), *rounded])
        ratios.append([size, *(ratio(times, a, b) for a, b in columns)])
    print("\nMedian milliseconds per step\n")
    print_table(["shape", "rounds", *names], medians)
    print("\nRatios within a round: median [quartiles]\n")
    print_table(["shape", *(f"{a} / {b}" for a, b in columns)], ratios)


def print_rates(shapes: list[tuple[int, int]], device: str) -> None:
    """Products and traffic of one EndToEnd step, and how near they come to the product's rate."""
    lines = []
    for rows, columns in shapes:
        m, n = min(rows, columns), max(rows, columns)
        left, right = torch.randn(m, m, device=device), torch.randn(m, n, device=device)

        def product(left: Tensor = left, right: Tensor = right) -> Tensor:
            return left @ right

        rate = 2 * m * m * n / statistics.median(seconds(product, device) for _ in range(7))
        times = {}
        for basis in ("exact", "tracked"):
            p = nn.Parameter(torch.randn(rows, columns, device=device))
            p.grad = torch.randn_like(p)
            optimizer = EndToEnd([p], 1e-6, basis=basis)
            optimizer.step()
            times[basis] = statistics.median(seconds(optimizer.step, device) for _ in range(5))
        exact, tracked = 10 * m * m * n, 14 * m * m * n + 12 * m**3
        lines.append(
            [
                f"{rows} x {columns}",
                f"{rate / 1e9:.3g}",
                f"{exact / 1e9:.3g}",
                f"{exact / times['exact'] / rate:.0%}",
                f"{tracked / 1e9:.3g}",
                f"{tracked / times['tracked'] / rate:.0%}",
                f"{4 * (3 * m * n) / 1e6:.3g}",
            ]
        )
    print("\nFlops of the matrix products, as a share of the machine's own product rate\n")
    header = ["shape", "product, GFLOP/s", "exact, GFLOP", "share", "tracked, GFLOP", "share"]
    print_table([*header, "least traffic, MB"], lines)


def print_accuracy(sizes: list[tuple[int, int]], device: str) -> None:
    """Relative error of the float32 update, and of its basis, while the weight moves randomly."""
    lines = []
    for m, n in sizes:
        gradient = torch.randn(m, n, device=device)
        for move in (0.0, 1e-3, 1e-2):
            weight = torch.randn(m, n, device=device) / n**0.5
            left, before = exact_left_basis(weight), torch.zeros(())
            for _ in range(10 if move else 0):
                noise = torch.randn_like(weight)
                weight = weight + noise * (move * weight.norm() / noise.norm())
                gram = rotated_gram(left, weight)
                before, left = basis_error(gram), jacobi_sweep(left, gram)
            after = basis_error(rotated_gram(left, weight))
            errors = []
            for depth in (2, 3, 4):
                truth = end_to_end_update(weight.double(), gradient.double(), depth)
                update = update_in_basis(left, weight, gradient, depth)
                errors.append(f"{((update - truth).norm() / truth.norm()).item():.1e}")
            basis = [f"{before.item():.1e}", f"{after.item():.1e}"]
            moved = f"{move:.1%} per step" if move else "exact basis"
            lines.append([f"{m} x {n}", moved, *basis, *errors])
    print("\nRelative error of the float32 update against the float64 reference\n")
    bases = ["basis before sweep", "after"]
    print_table(["shape", "weight", *bases, "N = 2", "N = 3", "N = 4"], lines)


def print_table(header: list[str], lines: list[list[str]]) -> None:
    """A markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for line in lines:
        print("| " + " | ".join(line) + " |", flush=True)


def main() -> None:
    """Read the options and print all tables."""
    parser = argparse.ArgumentParser(description="Time of one optimizer step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--accuracy", default="256x256,1024x1024,768x3072")
    parser.add_argument("--seconds", type=float, default=20, help="per shape")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tf32", action="store_true", help="TensorFloat-32 products")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    if options.tf32:
        torch.set_float32_matmul_precision("high")

    def sizes(text: str) -> list[tuple[int, int]]:
        pairs = [item.split("x") for item in text.split(",") if item]
        return [(int(m), int(n)) for m, n in pairs]

    print(f"torch {torch.__version__}, {options.device}, {options.threads} CPU thread(s)")
    print_accuracy(sizes(options.accuracy), options.device)
    print_rates(sizes(options.shapes), options.device)
    print_times(sizes(options.shapes), options.device, options.seconds)


if __name__ == "__main__":
    main()
