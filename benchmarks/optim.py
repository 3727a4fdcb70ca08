r"""Time of one optimizer step, side by side: EndToEnd and Factored against Muon, AdamW and SGD.

    python benchmarks/optim.py [--device cuda --tf32] [--shapes 64x64,768x3072] [--seconds 20]
    python benchmarks/optim.py --device cuda --tf32 --seconds 1 --accuracy 768x3072 \
        --shapes 256x256,768x768,768x3072,2048x2048,4096x4096  # in two and a half minutes
    python benchmarks/optim.py --shapes "" --layers 0  # accuracy alone

Prints markdown tables; asserts nothing. Every round runs each optimizer once, so that they see the
same machine; ratios are taken within a round. On a GPU it also times a captured step of EndToEnd,
and a training step of GPT-2 small to hold all of them against.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import statistics
from collections.abc import Callable

import torch
from accuracy import print_accuracy, sizes_of
from gpt2 import GPT2, LAYERS, training_pass
from measure import kernels, launches, print_load, print_table, seconds
from torch import Tensor, nn

from overparam.optim import EndToEnd, Factored

SHAPES = (
    "64x64,128x128,256x256,512x512,768x768,768x2304,768x3072,3072x768,1024x1024,2048x2048,3072x3072"
)
# A Muon whose step is expected to take longer than SLOW seconds is timed in the first round only,
# and nobody has a step to warm up.
SLOW = 5.0
# On the CPU operations are counted up to this size: they are the same for all.
COUNTED = 256
MUON, FAIR = "Muon", "Newton-Schulz, float32"
EXACT, TRACKED, FACTORED = "EndToEnd, exact", "EndToEnd, tracked", "Factored(SGD, N=2)"
ROW, TENSOR, GRAPH = "EndToEnd, row", "EndToEnd, tensor", "EndToEnd, tracked, CUDA graph"
EVERY = "EndToEnd, tracked every 10"
# Of these as many steps are timed as one, for a share each: one of them sweeps the basis.
STEPS = {EVERY: 10}

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

    def factored(shared: nn.Module) -> Callable[[], object]:
        # A model of its own: what others write to weights would be factored again at every step.
        model = copy.deepcopy(shared)
        for p, q in zip(model.parameters(), shared.parameters(), strict=True):
            p.grad = q.grad
        return Factored(model, lr, "sgd", momentum=0.9, targets=["linear"]).step

    def rule(**options: object) -> Callable[[nn.Module], Callable[[], object]]:
        return lambda model: EndToEnd(model, lr, momentum=0.9, **options).step

    makers: dict[str, Callable[[nn.Module], Callable[[], object]]] = {
        MUON: muon,
        FAIR: fair,
        "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr).step,
        "SGD": lambda model: torch.optim.SGD(model.parameters(), lr, momentum=0.9).step,
        EXACT: rule(basis="exact"),
        TRACKED: rule(basis="tracked"),
        EVERY: rule(basis="tracked", basis_every=STEPS[EVERY]),
        ROW: rule(granularity="row"),
        TENSOR: rule(granularity="tensor"),
        FACTORED: factored,
    }
    if device == "cuda":
        # An eigendecomposition on the device is no contender; a captured step is.
        del makers[EXACT]
        captured = rule(basis="tracked", capturable=True)
        makers[GRAPH] = lambda model: graph(captured(model))
    return {name: repeated(make(fresh()), STEPS.get(name, 1)) for name, make in makers.items()}


def repeated(step: Callable[[], object], times: int) -> Callable[[], object]:
    """A number of steps as one call."""
    return step if times == 1 else lambda: [step() for _ in range(times)]


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

    def replay(kept: Callable[[], object] = step) -> None:
        del kept  # by this the optimizer lives, whose memory the graph works on
        recorded.replay()

    return replay


def linear(shape: tuple[int, int], device: str) -> nn.Module:
    """A layer with one weight and its gradient."""
    layer = nn.Linear(shape[1], shape[0], bias=False, device=device)
    layer.weight.grad = torch.randn(shape, device=device)
    return layer


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
                taken = seconds(call, device)
                times[name].append(taken / STEPS.get(name, 1))
                spent += taken
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
    (EVERY, MUON),
    (EVERY, FAIR),
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


def print_launches(steps: dict[str, Calls], device: str) -> None:
    """Operations of one step of each optimizer; on a GPU what they ran there as well."""
    names = list(dict.fromkeys(name for calls in steps.values() for name in calls))
    lines = []
    for size, calls in steps.items():
        counts = {name: f"{launches(calls[name]) / STEPS.get(name, 1):g}" for name in calls}
        if device == "cuda":
            for name, call in calls.items():
                if seen := kernels(call):  # some machines have no profiler of the device
                    counts[name] += f" ({seen / STEPS.get(name, 1):g})"
        lines.append([size, *(counts.get(name, "") for name in names)])
    print("\nOperations of a step that are not views (kernels and copies on the device)\n")
    print_table(["weights", *names], lines)


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


def gpt2_contestants(layers: int, device: str) -> Calls:
    """One step over all parameters of GPT-2 small for each optimizer."""
    model = GPT2(layers).to(device)
    for p in model.parameters():
        p.grad = 1e-3 * torch.randn_like(p)
    return contestants(lambda: model, device)


def gpt2_rounds(layers: int, device: str, budget: float, steps: dict[str, Calls]) -> Times:
    """Steps over all parameters of GPT-2 small; on the CPU without Muon, which may take minutes."""
    calls = gpt2_contestants(layers, device)
    if device == "cpu":
        return rounds(calls, device, budget, math.inf)
    steps[f"GPT-2, {layers} layers"] = calls
    return rounds(calls, device, budget, 0.0)


def print_training_share(tokens: int, device: str, times: Times) -> None:
    """The optimizer's share of a training step of GPT-2 small."""
    model = GPT2().to(device)
    training_pass(model, tokens, device)
    passes = [seconds(lambda: training_pass(model, tokens, device), device) for _ in range(3)]
    whole = statistics.median(passes)
    print(f"\nForward and backward of {tokens} tokens of GPT-2 small: {1e3 * whole:.4g} ms\n")
    shares = [[name, f"{statistics.median(each) / whole:.2%}"] for name, each in times.items()]
    print_table(["optimizer", "step / forward and backward"], shares)


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

    print(f"torch {torch.__version__}, {device}, {options.threads} CPU thread(s)")
    if device == "cuda":
        print(torch.cuda.get_device_name())
    print_load()
    print_accuracy(sizes_of(options.accuracy), device)
    expected = muon_seconds(device)
    measured: dict[tuple[int, int], Times] = {}
    steps: dict[str, Calls] = {}
    for shape in sizes_of(options.shapes):
        calls = contestants(lambda shape=shape: linear(shape, device), device)
        measured[shape] = rounds(calls, device, budget, expected(shape), options.patience)
        if device != "cpu" or max(shape) <= COUNTED:
            steps[f"{shape[0]} x {shape[1]}"] = calls
        print_times({f"{shape[0]} x {shape[1]}": measured[shape]}, device)
        print_load()
    if measured:
        print_rates(measured, device)
    tables = {f"{m} x {n}": times for (m, n), times in measured.items()}
    if options.layers:
        whole = gpt2_rounds(options.layers, device, budget, steps)
        tables[f"GPT-2, {options.layers} layers"] = whole
    if tables:
        print_times(tables, device)
        print_launches(steps, device)
    tokens = options.tokens or (32768 if device == "cuda" else 0)
    if tokens and options.layers:
        print_training_share(tokens, device, tables[f"GPT-2, {options.layers} layers"])
    print_load()


if __name__ == "__main__":
    main()
