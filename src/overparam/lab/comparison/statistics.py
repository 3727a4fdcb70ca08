"""Speed-ups of paired runs, their interval, and the rule that decides. Pure functions.

Sources: Bouthillier et al. (2021), "Accounting for variance in machine learning benchmarks";
Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice"
(rliable); Hesterberg (2015), "What teachers should know about the bootstrap", The American
Statistician 69, section 4.2.2, for the correction of the percentile interval for small samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special  # scipy.stats takes a second to import

LEVEL = 0.95
THRESHOLD = 1.05  # speed-ups nearer to 1 than this are of no use to anybody
POWER = 0.8
LEAST_SEEDS = 5  # with fewer, the bootstrap cannot reach beyond the values themselves
_RESAMPLES = 20_000

Decision = Literal["faster", "slower", "not faster", "too early"]


@dataclass(frozen=True)
class SpeedUp:
    """How much faster a method is than its baseline, over paired seeds.

    Attributes:
        values: one speed-up for each seed: steps of the baseline over steps of the method.
        median: of the values.
        low: lower end of the 95 % interval of their geometric mean.
        high: its upper end.
        decision: what :func:`decide` says.
        smallest: the smallest speed-up that these seeds would have shown with a chance of 80 %.
        censored: for how many seeds the true value lies outside of the ladder of horizons.
        unknown: for how many of them both methods are outside on the same side, so that the seed
            says nothing; its value is 1.
    """

    values: tuple[float, ...]
    median: float
    low: float
    high: float
    decision: Decision
    smallest: float
    censored: int = 0
    unknown: int = 0

    @property
    def known(self) -> bool:
        """Whether at least half of the seeds say something."""
        return 2 * self.unknown <= len(self.values)


def expanded_tail(count: int, level: float = LEVEL) -> float:
    r"""The tail of the percentile bootstrap that covers ``level`` with few values.

    The plain percentile interval of a mean is too narrow by ``sqrt((n-1)/n)``, and uses normal
    quantiles where those of Student's t belong. The remedy is to cut at the tail

    .. math:: \alpha' = \Phi(-\sqrt{n / (n-1)} \; t_{1 - \alpha/2, \, n-1})

    Source: Hesterberg (2015), section 4.2.2.

    Example:
        >>> round(expanded_tail(5), 5), round(expanded_tail(1000), 3)
        (0.00095, 0.025)
    """
    quantile = special.stdtrit(count - 1, (1 + level) / 2)
    return float(special.ndtr(-math.sqrt(count / (count - 1)) * quantile))


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The expanded percentile bootstrap interval of the mean of paired differences.

    No resample reaches beyond the values themselves: five values of the same sign, which chance
    alone gives in 6 % of repetitions, would exclude zero at any level. So the interval is at
    least as wide as Student's. The resamples are the same at each call, and so is the interval.

    Args:
        values: one difference for each seed.
        level: of confidence.

    Returns:
        Both ends; infinite with fewer than two values.
    """
    if len(values) < 2:
        return -math.inf, math.inf
    sample = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(sample), size=(_RESAMPLES, len(sample)))
    tail = expanded_tail(len(sample), level)
    low, high = np.quantile(sample[picks].mean(axis=1), (tail, 1 - tail))
    quantile = special.stdtrit(len(sample) - 1, (1 + level) / 2)
    half = quantile * sample.std(ddof=1) / math.sqrt(len(sample))
    return min(float(low), sample.mean() - half), max(float(high), sample.mean() + half)


def smallest_effect(values: Sequence[float], power: float = POWER) -> float:
    r"""The smallest difference that a test of the mean would find with this chance.

    .. math:: (t_{0.975, n-1} + t_{power, n-1}) \; s / \sqrt{n}

    Source: any text on power, for example Lehr (1992), "Sixteen s-squared over d-squared".
    Infinite with fewer than two values.
    """
    count = len(values)
    if count < 2:
        return math.inf
    quantiles = special.stdtrit(count - 1, (1 + LEVEL) / 2) + special.stdtrit(count - 1, power)
    return float(quantiles * np.std(values, ddof=1) / math.sqrt(count))


def seeds_needed(values: Sequence[float], effect: float, most: int = 1000) -> int:
    """How many seeds would show a difference of this size with a chance of 80 %."""
    deviation = float(np.std(values, ddof=1))
    for count in range(LEAST_SEEDS, most):
        quantiles = special.stdtrit(count - 1, (1 + LEVEL) / 2) + special.stdtrit(count - 1, POWER)
        if quantiles * deviation / math.sqrt(count) <= effect:
            return count
    return most


def decide(median: float, low: float, high: float, threshold: float = THRESHOLD) -> Decision:
    """The rule, on speed-ups (1 is none).

    - faster: the interval lies above 1 and the median above the threshold;
    - slower: the same the other way round;
    - not faster: the interval shows that the method is not faster by more than the threshold;
    - too early: none of these, so more seeds or longer runs are needed.

    Example:
        >>> decide(1.42, 1.30, 1.55), decide(0.98, 0.96, 1.03), decide(1.02, 0.8, 1.3)
        ('faster', 'not faster', 'too early')
    """
    if low > 1 and median > threshold:
        return "faster"
    if high < 1 and median < 1 / threshold:
        return "slower"
    return "not faster" if high <= threshold else "too early"


def speed_up(logs: Sequence[float], censored: int = 0, unknown: int = 0) -> SpeedUp:
    """The speed-up over paired seeds, from its logarithm for each seed.

    Fewer than five seeds that say something decide nothing.
    """
    low, high = mean_interval(logs)
    median = float(np.exp(np.median(logs)))
    ends = _exp(low), _exp(high)
    smallest = max(_exp(smallest_effect(logs)), THRESHOLD)
    values = tuple(math.exp(value) for value in logs)
    decision = decide(median, *ends) if len(logs) - unknown >= LEAST_SEEDS else "too early"
    return SpeedUp(values, median, *ends, decision, smallest, censored, unknown)


def _exp(value: float) -> float:
    return math.inf if value == math.inf else math.exp(value)


def expected_best(losses: Sequence[float]) -> list[float]:
    """The expected lowest loss of ``k = 1, 2, ...`` trials drawn from these with replacement.

    With losses in ascending order ``v_1 <= ... <= v_n``, the lowest of ``k`` draws is ``v_i`` with
    probability ``((n-i+1)/n)^k - ((n-i)/n)^k``. Source: Dodge et al. (2019), "Show your work",
    section 3. A loss that is not finite makes the expectation infinite.

    Example:
        >>> expected_best([3.0, 1.0])
        [2.0, 1.5]
    """
    ordered, count = sorted(losses), len(losses)
    curve = []
    for k in range(1, count + 1):
        total = 0.0
        for i, value in enumerate(ordered):
            chance = ((count - i) / count) ** k - ((count - i - 1) / count) ** k
            total += chance * value
        curve.append(total)
    return curve
