"""GPT-2 small as products: the way there and back, its first pass, a training step, the import.

    python benchmarks/reparam_gpt2.py [start step import]

One thread; times are processor time of the thread itself, which other work on the machine disturbs
least, with wall time beside it. Prints markdown tables; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gpt2 import CONTEXT, GPT2, VOCABULARY, training_pass
from measure import print_load, print_table, quartiles, seconds
from torch.utils._python_dispatch import TorchDispatchMode

from overparam import EndToEnd, Factored, collapse, overparameterize, plan_overparameterization

HEADER = ["call", "processor s", "of it eigenproblems", "products", "all else", "wall s"]
HEADER += ["page faults", "peak memory, GB"]
PRODUCTS, EIGENPROBLEMS = ("mm", "addmm", "bmm", "baddbmm"), ("_linalg_eigh",)

# Printed by a fresh process: seconds of two imports, the second with compiled files in a folder.
IMPORTS = """
import json, sys, time
clock = time.process_time
begin = clock()
import torch
middle = clock()
sys.pycache_prefix, sys.dont_write_bytecode = sys.argv[1], False
again, known = clock(), set(sys.modules)
import overparam
print(json.dumps([middle - begin, clock() - again, len(set(sys.modules) - known)]))
"""


class OwnTimes(TorchDispatchMode):
    """Processor time of each operation of torch by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        begin = time.thread_time()
        made = function(*args, **(kwargs or {}))
        self.seconds[function.overloadpacket.__name__] += time.thread_time() - begin
        return made


def measured(call: Callable[[], object]) -> list[float]:
    """Times, page faults and the largest memory so far of one call, as in ``HEADER``."""
    faults, wall, own = _faults(), time.perf_counter(), time.thread_time()
    with OwnTimes() as times:
        call()
    own, wall = time.thread_time() - own, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parts = [sum(times.seconds[key] for key in keys) for keys in (EIGENPROBLEMS, PRODUCTS)]
    return [own, *parts, own - sum(parts), wall, _faults() - faults, peak]


def _rate(dtype: torch.dtype, size: int = 1536) -> float:
    """Gflop in a second of processor time: the best of many products."""
    matrix = torch.randn(size, size, dtype=dtype)
    return 2e-9 * size**3 / min(seconds(lambda: matrix @ matrix, "cpu") for _ in range(12))


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def once(tokens: int) -> dict[str, list[float]]:
    """Into products, a forward pass, and back: what each call took."""
    model, sample = GPT2(), torch.randint(VOCABULARY, (1, tokens + 1))
    calls: dict[str, Callable[[], object]] = {
        f"first forward pass, plain, {tokens} tokens": lambda: model(sample),
        "second, plain": lambda: model(sample),
        'overparameterize(model, targets="all")': lambda: overparameterize(model, targets="all"),
        "first forward pass with factors": lambda: model(sample),
        "second, with factors": lambda: model(sample),
        "collapse(model)": lambda: collapse(model),
    }
    measured(lambda: torch.ones(()) + 1)  # what is imported at the first look
    return {name: measured(call) for name, call in calls.items()}


def print_start(tokens: int, repeats: int) -> None:
    """Medians and quartiles of :func:`once` in fresh processes."""
    plan = plan_overparameterization(GPT2(), targets="all")
    each = [entry.layout.product_flops / 1e9 for entry in plan.entries]
    # The head is tied to the embedding, whose product is formed once for each of the two.
    print(
        f"\n{len(plan.entries)} weights; their products take {sum(each):.0f} Gflop, "
        f"{sum(each) + max(each):.0f} in a forward pass of this model, which reads the embedding "
        f"twice. One large product runs at {_rate(torch.float32):.0f} Gflop/s in float32, at "
        f"{_rate(torch.float64):.0f} in float64 (by processor time).\n"
    )
    command = [sys.executable, __file__, "once", "--tokens", str(tokens)]
    runs: list[dict[str, list[float]]] = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(repeats)
    ]
    lines = []
    for name in runs[0]:
        *times, faults, peak = zip(*(run[name] for run in runs), strict=True)
        shown = [quartiles(values) for values in times]
        others = [f"{statistics.median(faults):,.0f}", f"{statistics.median(peak):.2f}"]
        lines.append([name, *shown, *others])
    print_table(HEADER, lines)


def print_step(tokens: int) -> None:
    """An optimizer's step beside the forward and backward pass of the same model."""
    model = GPT2()
    training_pass(model, tokens, "cpu")
    whole = statistics.median(
        seconds(lambda: training_pass(model, tokens, "cpu"), "cpu") for _ in range(3)
    )
    print(f"\nForward and backward pass of {tokens} tokens: {whole:.2f} s\n")
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "AdamW": lambda: torch.optim.AdamW(model.parameters(), 1e-6),
        "EndToEnd(momentum=0.9)": lambda: EndToEnd(model, 1e-6, momentum=0.9),
        "EndToEnd(momentum=0.9, basis_every=10), mean of 10 steps": lambda: EndToEnd(
            model, 1e-6, momentum=0.9, basis_every=10
        ),
        'Factored(inner="sgd", momentum=0.9)': lambda: Factored(model, 1e-6, "sgd", momentum=0.9),
    }
    lines = []
    for name, make in makers.items():
        step, count = make().step, 10 if "10 steps" in name else 5
        step()
        each = [seconds(step, "cpu") for _ in range(count)]
        # Of ten steps one sweeps the basis: their mean is the time of a step.
        taken = statistics.fmean(each) if count == 10 else statistics.median(each)
        shown = f"{taken:.3g}" if count == 10 else quartiles(each)
        lines.append([name, shown, f"{taken / whole:.0%}"])
    print_table(["optimizer", "step, s", "step / forward and backward"], lines)


def print_import(repeats: int) -> None:
    """What ``import overparam`` takes after ``import torch``, in fresh processes."""
    times: dict[str, list[Sequence[float]]] = {"nothing compiled": [], "compiled before": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for values in times.values():
                command = [sys.executable, "-c", IMPORTS, folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                values.append(json.loads(done.stdout))
    lines = []
    for name, values in times.items():
        *imports, modules = zip(*values, strict=True)
        shown = [quartiles([1e3 * x for x in each], 4) for each in imports]
        lines.append([name, *shown, str(modules[0])])
    print()
    header = ["files of overparam", "import torch, ms", "then import overparam, ms", "modules"]
    print_table(header, lines)


def main() -> None:
    """Read the options and print all tables."""
    parser = argparse.ArgumentParser(description="GPT-2 small as products of factors")
    parser.add_argument("parts", nargs="*", default=["start", "step", "import"])
    parser.add_argument("--tokens", type=int, default=128, help="of a forward pass")
    parser.add_argument("--batch", type=int, default=CONTEXT, help="tokens of a training step")
    parser.add_argument("--repeats", type=int, default=9, help="fresh processes")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if "once" in options.parts:
        print(json.dumps(once(options.tokens)))
        return
    print(f"torch {torch.__version__}, one thread")
    print_load()
    if "start" in options.parts:
        print_start(options.tokens, options.repeats)
    if "step" in options.parts:
        print_step(options.batch)
    if "import" in options.parts:
        print_import(options.repeats)
    print_load()


if __name__ == "__main__":
    main()
