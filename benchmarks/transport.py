"""Which state should an optimizer go on with when factors become one weight, or the reverse?

    OVERPARAM_DATA=... python benchmarks/transport.py > transport.jsonl
    python benchmarks/transport_tables.py transport.jsonl

A run is trained half-way, then its matrices ``W`` are exchanged for products ``W_N ... W_1`` or
products for matrices, and it goes on with the same batches and the state that each way gives:

- velocity: first moments as velocities of the weight, so that it keeps moving as it did;
- gradient: first moments as means of gradients, by least squares, second ones as mean squares;
- closed (products to matrices alone): the same with a formula in place of the least squares;
- damped (the same): closed, with small divisors damped and impossible means cut;
- recorded (the same): of a plain optimizer that saw the same gradients of W;
- fresh: no state. And kept: the run as it was, with nothing exchanged.

With ``A_j = W_N ... W_{j+1}`` and ``B_j = W_{j-1} ... W_1``, changes ``d_j`` of the factors move W
by ``J d = sum_j A_j d_j B_j``, and a gradient G of W is ``(J^T G)_j = A_j^T G B_j^T`` for them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from product_run import Run, adam, first_moments
from tasks import Task, char_transformer, mnist_cnn
from torch import Tensor

from overparam import factor_product, factor_product_vjp, preconditioner_spectrum

HALF, REST, TUNING = 400, 300, 300
RATES = {"SGD": (0.003, 0.01, 0.03, 0.1, 0.3), "AdamW": (1e-3, 3e-3, 1e-2, 3e-2)}
TASKS = {"MNIST": mnist_cnn, "characters": char_transformer}
WAYS = ("recorded", "velocity", "gradient", "closed", "damped", "fresh", "kept")

Moments = Sequence[Tensor]


def sides(factors: Moments) -> list[tuple[Tensor, Tensor]]:
    """``(A_j, B_j)`` for each factor."""
    top, bottom = (torch.eye(n).to(factors[0]) for n in (len(factors[-1]), factors[0].shape[1]))
    return [
        (factor_product([*factors[j + 1 :], top]), factor_product([bottom, *factors[:j]]))
        for j in range(len(factors))
    ]


def push(factors: Moments, changes: Moments) -> Tensor:
    """``J d``."""
    parts = zip(sides(factors), changes, strict=True)
    return torch.stack([a @ d @ b for (a, b), d in parts]).sum(0)


def inverse(factors: Moments, damping: float = 0.0) -> Callable[[Tensor], Tensor]:
    """``(J J^T + damping * largest)^-1`` at balanced factors, zero on the null space of J J^T."""
    size, left, right = preconditioner_spectrum(factor_product(factors), len(factors))
    largest = size.max()
    shares = torch.where(size > 1e-7 * largest, 1 / (size + damping * largest), 0.0)
    return lambda moved: left @ (shares * (left.mT @ moved @ right)) @ right.mT


def velocity_down(factors: Moments, first: Moments, second: Moments) -> tuple[Moments, Moments]:
    """``M = J m``; ``V = sum_j (A_j o A_j) v_j (B_j o B_j)``."""
    parts = [a**2 @ v @ b**2 for (a, b), v in zip(sides(factors), second, strict=False)]
    return [push(factors, first)], [torch.stack(parts).sum(0)] if parts else []


def velocity_up(factors: Moments, first: Moments, second: Moments) -> tuple[Moments, Moments]:
    """``m = J^T (J J^T)^-1 M``, the least m with ``J m = M``; second moments as by gradient_up.

    They are scaled by one number, which keeps the ratio of the first and the second ones.
    """
    lifted = factor_product_vjp(factors, inverse(factors)(first[0]))
    spread = gradient_up(factors, first, second)[1]
    squares = sum(each.square().sum() for each in lifted) / first[0].square().sum()
    return lifted, [v * squares * second[0].sum() / sum(w.sum() for w in spread) for v in spread]


def gradient_down(
    factors: Moments, first: Moments, second: Moments, most: int = 500
) -> tuple[Moments, Moments]:
    """``min_G |J^T G - m|^2``, conjugate gradients; ``V = r c^T / t`` with rank one.

    r and c are sums over hidden units of the second moments of the last and the first factor.
    Without any of the ``most`` steps, ``G = (J J^T)^-1 J m`` as it is where factors are balanced.
    """
    divide, target = inverse(factors), push(factors, first)
    solution = divide(target)
    residual = target - push(factors, factor_product_vjp(factors, solution))
    direction = divide(residual)
    energy = (residual * direction).sum()
    for _ in range(most):
        if residual.norm() <= 1e-7 * target.norm():
            break
        image = push(factors, factor_product_vjp(factors, direction))
        curvature = (direction * image).sum()
        if curvature <= 0:
            break
        length = energy / curvature
        solution, residual = solution + length * direction, residual - length * image
        corrected = divide(residual)
        previous, energy = energy, (residual * corrected).sum()
        direction = corrected + energy / previous * direction
    if not second:
        return [solution], []
    (above, _), *_, (_, below) = sides(factors)
    rows, columns = second[-1].sum(1), second[0].sum(0)
    total = (above.square().sum(1) @ rows + below.square().sum(0) @ columns) / 2
    return [solution], [rows[:, None] * columns / total]


def gradient_up(factors: Moments, first: Moments, second: Moments) -> tuple[Moments, Moments]:
    """``m = J^T M``; ``v_j = (A_j o A_j)^T V (B_j o B_j)^T``."""
    spread = [a.mT**2 @ v @ b.mT**2 for v in second for a, b in sides(factors)]
    return factor_product_vjp(factors, first[0]), spread


def damped_down(factors: Moments, first: Moments, second: Moments) -> tuple[Moments, Moments]:
    """``G = (J J^T + largest / 100)^-1 J m`` as at balance, within what Adam could have.

    Its means are at most ``(1 - b1) / ((1 - b2) (1 - b1^2 / b2))^(1/2)`` root mean squares, by
    the Cauchy-Schwarz inequality: 7.27 for the usual 0.9 and 0.999.
    """
    mean = inverse(factors, 0.01)(push(factors, first))
    squares = gradient_down(factors, first, second, 0)[1]
    return [mean.clamp(-7.27 * v.sqrt(), 7.27 * v.sqrt()) for v in squares] or [mean], squares


CLOSED = functools.partial(gradient_down, most=0)
DOWN = {
    "velocity": velocity_down,
    "gradient": gradient_down,
    "closed": CLOSED,
    "damped": damped_down,
}
UP = {"velocity": velocity_up, "gradient": gradient_up}


@torch.no_grad()
def carry(old: Run, new: Run, way: str) -> None:
    """Give the optimizer of ``new``, a copy of ``old`` at another depth, its state."""
    for p, q in zip(old.model.parameters(), new.model.parameters(), strict=True):
        if p.ndim == 1:
            new.optimizer.state[q] = copy.deepcopy(old.optimizer.state[p])
            continue
        if way == "recorded":
            kept = old.recorder.state[old.recorded[p]]
            new.optimizer.state[new.products[q][0]] = copy.deepcopy(kept)
            continue
        states = [old.optimizer.state[factor] for factor in old.products[p]]
        names = [name for name in states[0] if name != "step"]
        first, second = (
            [state[name].double() for state in states for name in names[n : n + 1]] for n in (0, 1)
        )
        factors = old.products[p] if old.depth > 1 else new.products[q]
        carried = (DOWN if old.depth > 1 else UP)[way]([f.double() for f in factors], first, second)
        for number, factor in enumerate(new.products[q]):
            state = new.optimizer.state[factor] = {
                name: moments[number].float() for name, moments in zip(names, carried, strict=False)
            }
            if "step" in states[0]:
                state["step"] = states[0]["step"].clone()


def log(text: str) -> None:
    """Progress, apart from the results."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def tuned(name: str, kind: str, depth: int) -> float:
    """The rate of the grid with the least mean loss over the last 50 of TUNING steps."""
    ends = {}
    for rate in RATES[kind]:
        task = TASKS[name](0)
        run = Run(task, kind, rate, depth)
        losses = [run.step(batch) for batch in itertools.islice(task.batches, TUNING)]
        ends[rate] = statistics.mean(losses[-50:])
    log(f"mean loss of {name}, {kind}, depth {depth} by rate: {ends}")
    return min(ends, key=lambda rate: ends[rate] if math.isfinite(ends[rate]) else math.inf)


def exchange(
    setting: dict[str, Any], rates: tuple[float, float], ways: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Train at the first depth and rate, go on at the other depth in every way at both rates."""
    name, kind, start, goal, seed = setting.values()
    ways = [way for way in ways if start > 1 or way in (*UP, "fresh", "kept")]
    if not ways:
        return
    task = TASKS[name](seed)
    old = Run(task, kind, rates[0], start)
    for batch in itertools.islice(task.batches, HALF):
        old.step(batch)
    batches = list(itertools.islice(task.batches, REST + 1))
    for way, rate in itertools.product(sorted(ways, key="kept".__eq__), dict.fromkeys(rates)):
        if way == "kept" and rate != rates[0]:
            continue
        row = setting | {"rate": rate, "own": rate == rates[0], "way": way}
        run = old
        if way != "kept":
            run = Run(Task(copy.deepcopy(old.model), old.loss, iter(())), kind, rate, goal)
        if way not in ("fresh", "kept"):
            began = time.perf_counter()
            carry(old, run, way)
            row["seconds"] = time.perf_counter() - began
            if goal == 1:
                first = first_moments(run.optimizer, (w for (w,) in run.products.values()))
                recorded = first_moments(old.recorder, old.recorded.values())
                row["size"] = (first.norm() / recorded.norm()).item()
                row["cosine"] = torch.cosine_similarity(first, recorded, dim=0).item()
            if kind == "AdamW" and rate == rates[0]:
                row["adam"] = adam(run, batches[:32])
        row["losses"] = [run.step(batch) for batch in batches]
        yield row


def main() -> None:
    """Measure everything, a line of JSON for each run that went on."""
    parser = argparse.ArgumentParser(description="Which state to go on with.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    for name, kind in itertools.product(TASKS, RATES):
        rate_of = {depth: tuned(name, kind, depth) for depth in (1, 2, 3)}
        for depth, seed in itertools.product((2, 3), range(settings.seeds)):
            for start, goal in ((depth, 1), (1, depth)):
                own, other = rate_of[start], rate_of[goal]
                rates = (own, other if other != own else own / 3)
                setting = {"task": name, "optimizer": kind, "start": start, "goal": goal}
                for row in exchange(setting | {"seed": seed}, rates, settings.ways):
                    print(json.dumps(row), flush=True)
                    log(f"{[*row.values()][:8]} {statistics.mean(row['losses'][-50:]):.4f}")


if __name__ == "__main__":
    main()
