"""What an experiment adds to the page: its claims and its sections."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from overparam.lab.paper.verdict import Claim
from overparam.lab.report.page import Section
from overparam.lab.study import Study


@dataclass(frozen=True)
class PartResult:
    """The stored curves of one finished study.

    Attributes:
        study: the settings.
        curves: all of them, as :func:`overparam.lab.jobs.load_curves` gives them.
        optimum: loss of the optimum.
    """

    study: Study
    curves: pl.DataFrame
    optimum: float


@dataclass(frozen=True)
class Chapter:
    """One experiment on the page.

    Attributes:
        title: heading.
        claims: what is said of it, with verdicts.
        sections: figures and tables.
    """

    title: str
    claims: tuple[Claim, ...]
    sections: tuple[Section, ...]
