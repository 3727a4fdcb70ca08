import io

import pytest
from rich.console import Console
from support.comparison_cases import small_problem

from overparam.data import DataUnavailable
from overparam.lab.comparison import atlas as atlas_module
from overparam.lab.comparison.atlas import FULL, QUICK, make_atlas, write_atlas
from overparam.lab.comparison.names import parse_call
from overparam.lab.comparison.problem import problem_names


def test_every_cell_names_a_problem():
    for name in (*QUICK, *FULL):
        assert parse_call(name, "problem")[0] in problem_names()


def test_one_page_with_the_answer_first_and_nothing_fatal(tmp_path, monkeypatch):
    compare = atlas_module.compare

    def small(name, **options):
        if name == "away":
            raise DataUnavailable("no such file")
        options |= {"steps": 6, "trials": 3, "tuning_seeds": 1}
        return compare(small_problem(title=name), **options)

    monkeypatch.setattr(atlas_module, "compare", small)
    screen = Console(file=io.StringIO())
    made = make_atlas(
        ["one", "away", 'two(norm="x")'],
        60.0,
        tmp_path,
        methods=["sgd", "sgd+rule:2"],
        console=screen,
    )
    assert list(made.results) == ["one", 'two(norm="x")']
    assert len(made.cells()) == 2
    first = made.sentences[0]
    assert first.startswith("Depth is faster in ")
    write_atlas(made, tmp_path / "atlas.html")
    page = (tmp_path / "atlas.html").read_text(encoding="utf-8")
    assert f'<p class="answer">{first}</p>' in page
    assert "away: not run. no such file" in page
    assert (tmp_path / "two-norm-x" / "report.html").exists()


def test_a_wrong_method_is_not_hidden(tmp_path):
    with pytest.raises(ValueError, match="not an optimizer"):
        make_atlas(["sparse-regression"], 60.0, tmp_path, methods=["adm"])
