"""Made-up curves for which the verdicts are known."""

import dataclasses

import polars as pl

from overparam.lab.paper.results import StudyResult
from overparam.lab.paper.scale import QUICK
from overparam.lab.paper.studies import map_studies, mechanism_studies, regression_studies

OPTIMUM = 0.25
SCALE = dataclasses.replace(
    QUICK, fixed=100, tuned=100, adam=100, deep=100, map_iterations=100, seeds=(0, 1),
    map_data=("diabetes",), full_identity=True, mechanism_iterations=100,
)  # fmt: skip
STUDIES = {
    **regression_studies(SCALE, "diabetes", 10, "cpu"),
    **map_studies(SCALE, "cpu"),
    **mechanism_studies(SCALE, "cpu"),
}
STEPS = (0, 10, 50, 100)


def best_rate(study):
    return study.rates[len(study.rates) // 2]


def study_result(name, ends, start=1.0, spread=1.01):
    """Curves that fall geometrically to one distance per method; other lrs end twice as high."""
    study = STUDIES[name]
    rows = []
    for method in study.methods:
        end = ends[method]
        for rate, worse in ((best_rate(study), 1), (study.rates[0], 2), (study.rates[-1], 2)):
            for seed, factor in ((0, 1.0), (1, spread)):
                for step in STEPS:
                    last = end * factor * worse
                    distance = start * (last / start) ** (step / STEPS[-1])
                    rows.append((method, rate, seed, step, OPTIMUM + distance, None))
            if study.rates[0] == study.rates[-1]:
                break
    schema = {"method": pl.String, "rate": pl.Float64, "seed": pl.Int64, "step": pl.Int64,
              "loss": pl.Float64, "diverged_at": pl.Int64}  # fmt: skip
    return StudyResult(study, pl.DataFrame(rows, schema=schema, orient="row"), OPTIMUM)


def depths(gd, two, three):
    return {"gd": gd, "factors:2": two, "factors:3": three, "rule:2": two, "rule:3": three}
