"""What a study gives, and what an experiment puts on the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from overparam.lab.paper.claims import Claim
from overparam.lab.report.page import Section
from overparam.lab.study import Study


@dataclass(frozen=True)
class StudyResult:
    """The stored curves of one finished study.

    Attributes:
        study: the settings.
        curves: all curves, as :func:`overparam.lab.jobs.load_curves` returns them.
        optimum: the smallest possible loss.
        predict: the speed-up of the late phase of gradient descent by depth, from the data; None
            where nothing is predicted.
    """

    study: Study
    curves: pl.DataFrame
    optimum: float
    predict: Callable[[float], float | None] = lambda depth: None


@dataclass(frozen=True)
class ExperimentReport:
    """One experiment on the page.

    Attributes:
        title: heading.
        claims: the claims that it tests.
        sections: figures and tables.
    """

    title: str
    claims: tuple[Claim, ...]
    sections: tuple[Section, ...]
