"""The result of a comparison: one sentence first, then its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

from overparam.lab.comparison.costs import Costs
from overparam.lab.comparison.methods import DEPTH, parse_method
from overparam.lab.comparison.plans import PlanFile
from overparam.lab.comparison.protocol import CONTROL, Findings, Plan, compare_ladders
from overparam.lab.comparison.statistics import LEAST_SEEDS, SpeedUp, decide
from overparam.lab.verdicts import Verdict

BOUNDS = (
    "≤ and ≥ mark bounds, in flops and seconds too: for most seeds the target lies outside the "
    "lengths that were run. Not known: for most it does so for both methods, on the same side."
)
_FINE = 2.01  # rates this far apart are fine enough for the parabola between them


@dataclass(frozen=True)
class Result:
    """What a comparison found; printing it gives the answer and a table.

    Attributes:
        title: of the problem.
        judged_by: what runs are judged by.
        stored: the plan, the costs of each method, and what was changed on the way.
        findings: of the protocol.
        asked: names of the methods that were asked for; the others are controls.
    """

    title: str
    judged_by: str
    stored: PlanFile
    findings: Findings
    asked: tuple[str, ...]

    @property
    def plan(self) -> Plan:
        """The plan as it was carried out."""
        return self.findings.plan

    @property
    def costs(self) -> Costs:
        """The costs of each method."""
        return self.stored.costs

    @cached_property
    def ranked(self) -> list[str]:
        """The methods that were compared with the best baseline, fastest first."""
        speeds = self.findings.speed_ups
        return sorted(speeds, key=lambda name: -speeds[name].median)

    @property
    def deep(self) -> list[str]:
        """The methods with depth, fastest first."""
        return [name for name in self.ranked if not parse_method(name).is_baseline]

    @property
    def verdict(self) -> Verdict:
        """Whether depth makes the training faster, in steps; controls do not count."""
        speeds = self.findings.speed_ups
        found = [speeds[name].decision for name in self.deep if name in self.asked]
        if "faster" in found:
            return Verdict.YES
        return Verdict.TOO_EARLY if "too early" in found or not found else Verdict.NO

    @property
    def sentence(self) -> str:
        """The answer, with its number, and what the controls say."""
        return answer(self) + _controls(self)

    @property
    def failures(self) -> list[tuple[str, str, int, int]]:
        """Method, reason, runs that failed for it, and runs of the method; none is fatal."""
        rows = [
            (name, cost.failure, 0, 0) for name, cost in self.costs.methods.items() if cost.failure
        ]
        runs: dict[str, int] = {}
        counts: dict[tuple[str, str], int] = {}
        for trial, outcome in self.findings.outcomes.items():
            runs[trial.method] = runs.get(trial.method, 0) + 1
            if outcome.failure:
                reason = outcome.failure.partition(" at step")[0]
                counts[trial.method, reason] = counts.get((trial.method, reason), 0) + 1
        return rows + [(name, why, count, runs[name]) for (name, why), count in counts.items()]

    def final_loss(self, name: str) -> float:
        """Median judged loss over fresh seeds, after as many steps as in tuning."""
        middle = self.plan.ladder.index(self.plan.horizon)
        return median(row[middle] for row in self.findings.losses[name])

    @property
    def metrics(self) -> list[str]:
        """The names of what is measured beside the loss."""
        return sorted({m for o in self.findings.outcomes.values() for m in o.metrics or ()})

    def final_metric(self, name: str, metric: str) -> float:
        """Mean of a metric over fresh seeds where :meth:`final_loss` is taken; NaN if unknown."""
        values = [
            outcome.metrics[metric]
            for trial, outcome in self.findings.outcomes.items()
            if trial.method == name
            and trial.seed < self.plan.seeds
            and trial.horizon == self.plan.horizon
            and trial.stream == 0
            and outcome.metrics
        ]
        return fmean(values) if values else math.nan

    def cost_ratio(self, name: str, what: str) -> float:
        """Cost of a step of a method over that of the best baseline, in seconds or flops."""
        own, base = (getattr(self.costs.methods[n], what) for n in (name, self.findings.baseline))
        return own / base if base else math.nan

    def over_own(self, name: str) -> tuple[str, SpeedUp] | None:
        """The same optimizer without depth, and the speed-up over it, read off the same runs.

        The target is the loss that the optimizer without depth reached in tuning.
        """
        losses = self.findings.losses
        plains = [plain for plain in losses if _is_plain_of(plain, name)]
        own = max(plains, key=lambda plain: len(parse_method(plain).options), default=None)
        if own is None:
            return None
        target = min(self.findings.tuning[own].losses.values())
        return own, compare_ladders(self.plan.ladder, losses[own], losses[name], target)

    def save(self, path: Path | str) -> Path:
        """Write the page, which opens without a network.

        Raises:
            OSError: the file cannot be written.
        """
        from overparam.lab.comparison.page import write_result  # charts take a second to import

        write_result(self, Path(path))
        return Path(path)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: one for each method, then the A/A control."""
        base = self.findings.baseline
        own = {name: over for name in self.deep if (over := self.over_own(name))}
        if all(plain == base for plain, _ in own.values()):
            own = {}  # it would say what the speed-up in steps says
        header = ["method", "lr", "loss", "speed-up in steps", "in flops", "in seconds"]
        header += [*["over its own optimizer"] * bool(own), "verdict"]
        rows: list[list[str]] = []
        if base:
            lr = self.findings.tuning[base].lr
            rows.append([base, f"{lr:.3g}", f"{self.final_loss(base):.4g}", "1", "1", "1"])
            rows[-1] += [*[""] * bool(own), "baseline"]
        for name in self.ranked:
            found, tuned = self.findings.speed_ups[name], self.findings.tuning[name]
            ratios = [
                ratio(found, found.median / self.cost_ratio(name, what))
                for what in ("flops", "seconds")
            ]
            if own:
                ratios.append(decided(own[name][1]) if name in own else "")
            note = ", lr at the edge" if tuned.edge else ""
            cells = [f"{tuned.lr:.3g}", f"{self.final_loss(name):.4g}", interval(found), *ratios]
            rows.append([name, *cells, found.decision + note])
        failed = [n for n in self.costs.methods if n != base and n not in self.findings.speed_ups]
        blank = [""] * (len(header) - 2)
        rows += [[name, *blank, "failed"] for name in failed]
        if self.findings.control is not None:
            control = self.findings.control
            says = "different!" if control.decision in ("faster", "slower") else "no difference"
            cells = [*blank[:2], interval(control), *blank[3:]]
            rows.append([f"A/A: {base}, other batches", *cells, says * control.known])
        return header, rows

    def __str__(self) -> str:
        header, rows = self.table()
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        ]
        return "\n".join([self.sentence, *self.warnings(), "", *lines, *self.legend()])

    def legend(self) -> list[str]:
        """What stands below the table."""
        cells = " ".join(cell for row in self.table()[1] for cell in row)
        if not any(word in cells for word in ("≤", "≥", "not known")):
            return []
        return [BOUNDS]

    def warnings(self) -> list[str]:
        """What a reader should know before believing the answer."""
        return list(_warnings(self))


def answer(result: Result) -> str:
    """The answer in one sentence, or two where steps and seconds disagree."""
    base, speeds = result.findings.baseline, result.findings.speed_ups
    if not base:
        return "Too early to say: no method without depth ended with a finite loss."
    deep = [name for name in result.deep if name in result.asked]
    if not deep:
        if any(not parse_method(name).is_baseline for name in result.costs.methods):
            return f"Too early to say: no method with depth could be trained; {base} could."
        return f"{base} is the best of the methods without depth; none with depth was compared."
    # What trains with depth comes before the radial step, which is a part of it.
    deep.sort(key=lambda name: parse_method(name).kind not in DEPTH)
    if result.verdict is Verdict.YES:
        name = next(name for name in deep if speeds[name].decision == "faster")
        found = speeds[name]
        text = (
            f"Yes. {name} reaches the loss of {base} in {percent(1 / found.median)} of the steps "
            f"({_number(found)})."
        )
        ratio = result.cost_ratio(name, "seconds")
        if found.median / ratio <= 1:
            text += f" But its steps take {ratio:.2g} times as long: in seconds it is not faster."
        return text
    if result.verdict is Verdict.NO:
        name = deep[0]
        same = speeds[name].decision == "not faster"
        what = "is as fast" if same else "is faster"
        which = "" if same and len(deep) == 1 else f"{name}: "
        return f"No. {base} alone {what} ({which}{_number(speeds[name])})."
    open_ones = [name for name in deep if speeds[name].decision == "too early"]
    name = next((name for name in open_ones if speeds[name].known), open_ones[0])
    found = speeds[name]
    if not found.known:
        return (
            f"Too early to say. For {found.unknown} of {len(found.values)} seeds neither {base} "
            f"nor {name} reaches the loss of the tuning within the lengths that were run, or both "
            "do in the shortest."
        )
    return (
        f"Too early to say. Against {base}: {name} ({_number(found)}); the smallest effect that "
        f"could have been seen is {percent(found.smallest - 1)}."
    )


def _controls(result: Result) -> str:
    """What the methods that were not asked for say; empty if there are none."""
    names = [name for name in result.deep if name not in result.asked]
    if not names:
        return ""
    speeds = {name: result.findings.speed_ups[name] for name in names}
    said = [
        f"{name} is {_SAID[each.decision]} ({interval(each).partition(' [')[0]})"
        for name, each in speeds.items()
    ]
    return f" Control{'s' * (len(said) > 1)}: {'; '.join(said)}."


_SAID = {word: word for word in ("faster", "slower", "not faster")} | {"too early": "undecided"}


def _is_plain_of(plain: str, name: str) -> bool:
    """Whether a method is the optimizer of another one, without its depth."""
    if plain.endswith(CONTROL):
        return False
    own, method = parse_method(plain), parse_method(name)
    same = own.base == method.base and all(each in method.options for each in own.options)
    return (
        same
        and own.is_baseline
        and ("momentum" in dict(own.options)) == ("momentum" in dict(method.options))
    )


def percent(share: float) -> str:
    """A share in per cent.

    Example:
        >>> percent(0.174)
        '17 %'
    """
    return f"{100 * share:.0f} %"


def interval(found: SpeedUp) -> str:
    """A speed-up with its interval, in short.

    Example:
        >>> interval(SpeedUp((1.2, 1.3), 1.25, 1.1, 1.4, "faster", 1.1))
        '1.25 [1.10, 1.40]'
    """
    if not found.known:
        return "not known"
    median, low, high = _digits(found)
    return f"{_SIGNS[_bound(found)]}{median} [{low}, {high}]"


def decided(found: SpeedUp) -> str:
    """A speed-up with its interval and the decision."""
    return f"{interval(found)} {found.decision}" if found.known else interval(found)


def ratio(found: SpeedUp, value: float) -> str:
    """A ratio that follows from a speed-up; nothing where it is not a number.

    Where the speed-up is a bound, so is the ratio.
    """
    return f"{_SIGNS[_bound(found)]}{value:.2f}" if found.known and math.isfinite(value) else ""


def _number(found: SpeedUp) -> str:
    bound = {-1: "at most ", 1: "at least ", 0: ""}[_bound(found)]
    median, low, high = _digits(found)
    text = f"speed-up {bound}{median}"
    return text if _bound(found) else f"{text}, 95 % interval {low} to {high}"


def _digits(found: SpeedUp) -> list[str]:
    """Median and interval with two decimals, or as many as show why the rule decides as it does."""
    numbers = (found.median, found.low, found.high)
    enough = (n for n in range(2, 6) if decide(*(round(x, n) for x in numbers)) == decide(*numbers))
    digits = next(enough, 6)
    return [f"{number:.{digits}f}" for number in numbers]


_SIGNS = {-1: "≤ ", 1: "≥ ", 0: ""}


def _bound(found: SpeedUp) -> int:
    """Whether the true value lies outside of the ladder for most seeds, and on which side."""
    if 2 * found.censored <= len(found.values):
        return 0
    return 1 if found.median > 1 else -1


def _warnings(result: Result) -> Iterable[str]:
    findings, plan = result.findings, result.plan
    yield from result.stored.notes
    if len(result.stored.machines) > 1:
        yield (
            "Trained on several machines, which may round differently; seconds are those of the "
            f"first: {'; '.join(result.stored.machines)}."
        )
    control = findings.control
    if control is not None and control.decision in ("faster", "slower"):
        yield (
            f"The A/A control differs from itself ({_number(control)}): trust no verdict here, and "
            "use more seeds."
        )
    if control is not None and set(control.values) == {1.0}:
        yield "The A/A control says nothing: there are no other batches than those of the baseline."
    if plan.seeds < LEAST_SEEDS:
        yield f"Only {plan.seeds} seeds: fewer than {LEAST_SEEDS} decide nothing."
    silent = {name: found.unknown for name, found in findings.speed_ups.items()}
    few = {name: count for name, count in silent.items() if plan.seeds - count < LEAST_SEEDS}
    if few and plan.seeds >= LEAST_SEEDS:
        counts = ", ".join(f"{name} ({count} of {plan.seeds})" for name, count in few.items())
        yield (
            "Some seeds say nothing, since like the baseline the method reaches the target "
            f"outside of the lengths that were run: {counts}. Fewer than {LEAST_SEEDS} others "
            "decide nothing."
        )
    edges = [n for n, found in findings.tuning.items() if found.edge and not found.failed]
    if edges:
        yield (
            f"The best learning rate is at the edge of those tried for {', '.join(edges)}: more "
            "trials, or a larger budget, may help them."
        )
    coarse = {n: found.gap for n, found in findings.tuning.items() if _FINE < found.gap < math.inf}
    if coarse:
        yield (
            f"The best learning rate is known only roughly for {', '.join(coarse)}: those tried "
            f"next to it are up to a factor {max(coarse.values()):.2g} away, so a difference may "
            "be one of tuning."
        )
    for name, why, failed, runs in result.failures:
        yield (
            f"{name} failed in {failed} of {runs} runs: {why}."
            if runs
            else f"{name} could not be trained: {why}."
        )
    if findings.baseline:
        first, *_, last = (
            median(column) for column in zip(*findings.losses[findings.baseline], strict=True)
        )
        if not first > last:
            yield (
                f"{plan.ladder[-1] / plan.ladder[0]:.2g} times as many steps do not lower the loss "
                "of the baseline, so speed means nothing here: take shorter runs, or a problem "
                "that is not solved so soon."
            )
