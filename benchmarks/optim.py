"""Time of one optimizer step, side by side: EndToEnd and Factored against Muon, AdamW and SGD.

    python benchmarks/optim.py [--device cuda --tf32] [--shapes 64x64,768x3072] [--seconds 20]
    python benchmarks/optim.py --shapes "" --layers 0  # accuracy alone

Prints markdown tables; asserts nothing. Every round runs each optimizer once, so that they see the
same machine; ratios are taken within a round. On a GPU it also times a captured step of EndToEnd,
and a training step of GPT-2 small to hold all of them against.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import statistics
import time
from collections.abc import Callable

import torch
from gpt2 import GPT2, LAYERS, training_pass
from torch import Tensor, nn

from overparam import end_to_end_update
from overparam.optim import EndToEnd, Factored
from overparam.rule.basis import basis_error, exact_left_basis, jacobi_sweep, rotated_gram
from overparam.rule.fast import update_in_basis

SHAPES = (
    "64x64,128x128,256x256,512x512,768x768,768x2304,768x3072,3072x768,1024x1024,2048x2048,3072x3072"
)
# A Muon whose step is expected to take longer than SLOW seconds is timed in the first round only,
# and nobody has a step to warm up.
SLOW = 5.0
MUON, FAIR = "Muon", "Newton-Schulz, float32"
EXACT, TRACKED, FACTORED = "EndToEnd, exact", "EndToEnd, tracked", "Factored(SGD, N=2)"
ROW, TENSOR, GRAPH = "EndToEnd, row", "EndToEnd, tensor", "EndToEnd, tracked, CUDA graph"

Calls = dict[str, Callable[[], object]]
Times = dict[str, list[float]]


def newton_schulz(gradient: Tensor) -> Tensor:
    """Muon's five iterations in float32: what Muon costs where bfloat16 is not emulated."""
    x = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.mT
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x


def contestants(fresh: Callable[[], nn.Module], device: str) -> Calls:
    """One step of each optimizer, on the model with gradients that ``fresh`` gives it.

    Muon, Newton-Schulz and Factored take the weights of linear layers; embeddings and vectors go
    to AdamW beside Muon, and plainly to the inner optimizer of Factored, as is usual.
    """
    lr = 1e-6

    def hidden(model: nn.Module) -> list[Tensor]:
        return [m.weight for m in model.modules() if isinstance(m, nn.Linear)]

    def rest(model: nn.Module) -> list[Tensor]:
        taken = {id(p) for p in hidden(model)}
        return [p for p in model.parameters() if id(p) not in taken]

    def muon(model: nn.Module) -> Callable[[], object]:
        matrices, others = torch.optim.Muon(hidden(model), lr), rest(model)
        if not others:
            return matrices.step
        adamw = torch.optim.AdamW(others, lr)
        return lambda: (matrices.step(), adamw.step())

    def fair(model: nn.Module) -> Callable[[], object]:
        gradients = [p.grad for p in hidden(model) if p.grad is not None]
        return lambda: [newton_schulz(gradient) for gradient in gradients]

    def factored(model: nn.Module) -> Callable[[], object]:
        groups = [{"params": hidden(model)}, {"params": rest(model), "depth": 1}]
        groups = [group for group in groups if group["params"]]
        return Factored(groups, inner=torch.optim.SGD, lr=lr, momentum=0.9).step

    def rule(**options: object) -> Callable[[nn.Module], Callable[[], object]]:
        return lambda model: EndToEnd(model, lr, momentum=0.9, **options).step

    makers: dict[str, Callable[[nn.Module], Callable[[], object]]] = {
        MUON: muon,
        FAIR: fair,
        "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr).step,
        "SGD": lambda model: torch.optim.SGD(model.parameters(), lr, momentum=0.9).step,
        EXACT: rule(basis="exact"),
        TRACKED: rule(basis="tracked"),
        ROW: rule(granularity="row"),
        TENSOR: rule(granularity="tensor"),
        FACTORED: factored,
    }
    if device == "cuda":
        # An eigendecomposition on the device is no contender; a captured step is.
        del makers[EXACT]
        captured = rule(basis="tracked", capturable=True)
        makers[GRAPH] = lambda model: graph(captured(model))
    return {name: make(fresh()) for name, make in makers.items()}


def graph(step: Callable[[], object]) -> Callable[[], object]:
    """A step captured as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        step()
    return recorded.replay


def linear(shape: tuple[int, int], device: str) -> nn.Module:
    """A layer with one weight and its gradient."""
    layer = nn.Linear(shape[1], shape[0], bias=False, device=device)
    layer.weight.grad = torch.randn(shape, device=device)
    return layer


def seconds(call: Callable[[], object], device: str) -> float:
    """Time of one call: on a GPU with the device waited for, on one CPU thread the thread's own.

    The thread's own time leaves out what other work on the machine takes of the core.
    """
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def rounds(calls: Calls, device: str, budget: float, muon: float, patience: float = 0.0) -> Times:
    """Times of each optimizer, round by round.

    Muon is expected to take ``muon`` seconds a step, and left out above ``patience`` seconds.
    """
    slow = muon > SLOW
    if muon > max(patience, SLOW):
        calls = {name: call for name, call in calls.items() if name != MUON}
    if not slow:
        for call in calls.values():
            call()
    times: Times = {name: [] for name in calls}
    number, spent, order = 0, 0.0, random.Random(0)
    while number < 3 or (spent < budget and number < 200):
        # In an order of its own: each finds the caches as another one left them.
        for name, call in order.sample(list(calls.items()), len(calls)):
            if name != MUON or not slow or number == 0:
                times[name].append(seconds(call, device))
                spent += times[name][-1]
        number += 1
    return times


def muon_seconds(device: str) -> Callable[[tuple[int, int]], float]:
    """What a step of Muon is expected to take, by its flops and its rate at 256 x 256."""

    def flops(shape: tuple[int, int]) -> float:
        m, n = sorted(shape)
        return 5 * (4 * m * m * n + 2 * m**3)

    step = torch.optim.Muon(linear((256, 256), device).parameters(), 1e-6).step
    step()
    rate = flops((256, 256)) / seconds(step, device)
    return lambda shape: flops(shape) / rate


def ratio(times: Times, name: str, against: str) -> str:
    """Median and quartiles of the ratios within rounds."""
    if name not in times or against not in times:
        return ""
    ratios = sorted(a / b for a, b in zip(times[name], times[against], strict=False))
    if len(ratios) == 1:
        return f"{ratios[0]:.3g} (1 round)"
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{statistics.median(ratios):.3g} [{low:.3g}, {high:.3g}]"


COMPARED = [
    (EXACT, MUON),
    (EXACT, FAIR),
    (TRACKED, MUON),
    (TRACKED, FAIR),
    (FACTORED, MUON),
    (FACTORED, FAIR),
    (ROW, "AdamW"),
    (TENSOR, "AdamW"),
]


def print_times(measured: dict[str, Times], device: str) -> None:
    """Steps of all optimizers, and the ratios that the project aims at."""
    compared = [*COMPARED, (GRAPH, MUON)] if device == "cuda" else COMPARED
    medians, ratios = [], []
    names = list(dict.fromkeys(name for times in measured.values() for name in times))
    for size, times in measured.items():
        counts = sorted({len(each) for each in times.values()})
        cells = [times.get(name) for name in names]
        rounded = [f"{1e3 * statistics.median(each):.3g}" if each else "" for each in cells]
        medians.append([size, "; ".join(map(str, counts)), *rounded])
        ratios.append([size, *(ratio(times, a, b) for a, b in compared)])
    print("\nMedian milliseconds per step (rounds: of a slow Muon; of all others)\n")
    print_table(["weights", "rounds", *names], medians)
    print("\nRatios within a round: median [quartiles]\n")
    print_table(["weights", *(f"{a} / {b}" for a, b in compared)], ratios)


def print_rates(measured: dict[tuple[int, int], Times], device: str) -> None:
    """Flops and bytes of a step, and how near they come to the rates of the machine."""
    lines = []
    for (rows, columns), times in measured.items():
        m, n = min(rows, columns), max(rows, columns)
        left, right = torch.randn(m, m, device=device), torch.randn(m, n, device=device)

        def product(left: Tensor = left, right: Tensor = right) -> Tensor:
            return left @ right

        def copy(right: Tensor = right) -> Tensor:
            return right.clone()

        repeats = 3 if m >= 2048 else 7
        rate = 2 * m * m * n / statistics.median(seconds(product, device) for _ in range(repeats))
        copying = 8 * m * n / statistics.median(seconds(copy, device) for _ in range(repeats))
        line = [f"{rows} x {columns}", f"{rate / 1e9:.3g}", f"{copying / 1e9:.3g}"]
        for name, flops in ((EXACT, 10 * m * m * n), (TRACKED, 14 * m * m * n + 12 * m**3)):
            if name not in times:
                line += ["", ""]
                continue
            share = flops / statistics.median(times[name]) / rate
            line += [f"{flops / 1e9:.3g}", f"{share:.0%}"]
        # Weight, gradient and momentum are read, weight and momentum written.
        least = 20 * m * n
        share = least / statistics.median(times[ROW]) / copying
        lines.append([*line, f"{least / 1e6:.3g}", f"{8 * m * m / 1e6:.3g}", f"{share:.0%}"])
    print("\nFlops and least traffic of a step, as a share of the machine's own rates\n")
    header = ["weight", "product, GFLOP/s", "copy, GB/s", "exact, GFLOP", "share"]
    header += ["tracked, GFLOP", "share", "least traffic, MB", "basis, MB", "row, share of copy"]
    print_table(header, lines)


def gpt2_rounds(
    layers: int, device: str, budget: float, measured: dict[tuple[int, int], Times]
) -> Times:
    """Steps over all parameters of GPT-2 small; on the CPU Muon's is the sum of single ones."""
    model = GPT2(layers).to(device)
    for p in model.parameters():
        p.grad = 1e-3 * torch.randn_like(p)
    calls = contestants(lambda: model, device)
    if device != "cpu":
        return rounds(calls, device, budget, 0.0)
    times = rounds(calls, device, budget, math.inf)
    block = [tuple(p.shape) for p in model.blocks[0].parameters() if p.ndim > 1]
    # 2304 x 768 costs what 768 x 2304 does.
    single = [measured.get(shape) or measured.get(shape[::-1]) or {} for shape in block]
    if all(MUON in each for each in single):
        times[MUON] = [layers * sum(statistics.median(each[MUON]) for each in single)]
    return times


def print_training_share(tokens: int, device: str, times: Times) -> None:
    """The optimizer's share of a training step of GPT-2 small."""
    model = GPT2().to(device)
    training_pass(model, tokens, device)
    passes = [seconds(lambda: training_pass(model, tokens, device), device) for _ in range(3)]
    whole = statistics.median(passes)
    print(f"\nForward and backward of {tokens} tokens of GPT-2 small: {1e3 * whole:.4g} ms\n")
    shares = [[name, f"{statistics.median(each) / whole:.2%}"] for name, each in times.items()]
    print_table(["optimizer", "step / forward and backward"], shares)


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
                noise = torch.randn_like(weight)
                weight = weight + noise * (move * weight.norm() / noise.norm())
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


def print_table(header: list[str], lines: list[list[str]]) -> None:
    """A markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for line in lines:
        print("| " + " | ".join(line) + " |", flush=True)


def print_load() -> None:
    """How busy the machine is, besides this."""
    print(f"\nLoad over 1, 5 and 15 minutes: {os.getloadavg()}", flush=True)


def main() -> None:
    """Read the options and print all tables."""
    parser = argparse.ArgumentParser(description="Time of one optimizer step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--accuracy", default="256x256,1024x1024,768x3072")
    parser.add_argument("--seconds", type=float, default=20, help="per shape")
    parser.add_argument(
        "--patience", type=float, default=300, help="seconds expected of a step of Muon, at most"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tf32", action="store_true", help="TensorFloat-32 products")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of GPT-2; 0 leaves it out")
    parser.add_argument(
        "--tokens", type=int, help="of a training step; 32768 on a GPU, else left out"
    )
    options = parser.parse_args()
    device, budget = options.device, options.seconds
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    if options.tf32:
        torch.set_float32_matmul_precision("high")

    def sizes(text: str) -> list[tuple[int, int]]:
        pairs = [item.split("x") for item in text.split(",") if item]
        return [(int(m), int(n)) for m, n in pairs]

    print(f"torch {torch.__version__}, {device}, {options.threads} CPU thread(s)")
    if device == "cuda":
        print(torch.cuda.get_device_name())
    print_load()
    print_accuracy(sizes(options.accuracy), device)
    expected = muon_seconds(device)
    measured: dict[tuple[int, int], Times] = {}
    for shape in sizes(options.shapes):
        calls = contestants(lambda shape=shape: linear(shape, device), device)
        measured[shape] = rounds(calls, device, budget, expected(shape), options.patience)
        print_times({f"{shape[0]} x {shape[1]}": measured[shape]}, device)
        print_load()
    if measured:
        print_rates(measured, device)
    tables = {f"{m} x {n}": times for (m, n), times in measured.items()}
    if options.layers:
        tables[f"GPT-2, {options.layers} layers"] = gpt2_rounds(
            options.layers, device, budget, measured
        )
    if tables:
        print_times(tables, device)
    tokens = options.tokens or (32768 if device == "cuda" else 0)
    if tokens and options.layers:
        print_training_share(tokens, device, tables[f"GPT-2, {options.layers} layers"])
    print_load()


if __name__ == "__main__":
    main()
