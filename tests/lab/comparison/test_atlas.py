import io

import pytest
from rich.console import Console
from support.comparison_cases import small_problem

from overparam.data import DataUnavailable
from overparam.lab.comparison import atlas as atlas_module
from overparam.lab.comparison import budget
from overparam.lab.comparison.atlas import FULL, QUICK, Cell, make_atlas, write_atlas
from overparam.lab.comparison.methods import parse_method
from overparam.lab.comparison.names import folder_name, parse_call
from overparam.lab.comparison.problem import problem_names

METHODS = ("sgd", "sgd+rule:2")


@pytest.fixture
def small(monkeypatch):
    """Small comparisons in place of those of the lab's problems; returns the names asked for."""
    compare, asked = atlas_module.compare, []

    def instead(name, **options):
        asked.append(name)
        if name == "away":
            raise DataUnavailable("no such file")
        options |= {"trials": 3, "tuning_seeds": 1}
        return compare(small_problem(title=name), **options)

    monkeypatch.setattr(atlas_module, "compare", instead)
    return asked


def test_every_cell_names_a_problem_and_methods():
    for cells in (QUICK, FULL):
        for cell in cells:
            assert parse_call(cell.problem, "problem")[0] in problem_names()
            assert any(parse_method(name).is_baseline for name in cell.methods)
        assert len({folder_name(cell.problem) for cell in cells}) == len(cells)


def test_one_page_with_the_answer_first_and_nothing_fatal(tmp_path, small):
    screen = Console(file=io.StringIO())
    cells = [Cell(name, 6, METHODS) for name in ("one", "away", 'two(norm="x")')]
    made = make_atlas(cells, tmp_path, seeds=5, console=screen)
    assert list(made.results) == ["one", 'two(norm="x")']
    assert len(made.table) == 4  # over the best, and over its own optimizer
    first = made.sentences[0]
    assert first.startswith("Depth is faster in ")
    write_atlas(made, tmp_path / "atlas.html")
    page = (tmp_path / "atlas.html").read_text(encoding="utf-8")
    assert f'<p class="answer">{first}</p>' in page
    assert "away: not run. no such file" in page
    assert (tmp_path / "two-norm-x" / "report.html").exists()
    assert "Hesterberg" in page  # it ends with the protocol


def test_a_command_that_is_stopped_goes_on_where_it_was(tmp_path, small):
    cells = [Cell(name, 6, METHODS) for name in ("one", "two", "three")]
    calls = 0

    def suspend():
        nonlocal calls
        calls += 1
        return calls > 40

    part = make_atlas(cells, tmp_path / "parts", seeds=5, suspend=suspend)
    assert part.missing
    assert not set(part.results) & set(part.missing)
    whole = make_atlas(cells, tmp_path / "parts", seeds=5)
    assert not whole.missing
    alone = make_atlas(cells, tmp_path / "alone", seeds=5)
    for name, result in whole.results.items():
        assert result.findings.losses == alone.results[name].findings.losses


def test_what_was_never_begun_is_not_measured_after_the_time(tmp_path, small):
    made = make_atlas([Cell("one", 6, METHODS)], tmp_path, suspend=lambda: True)
    assert made.missing == {"one": "the same command goes on with it"}
    assert small == []


def test_a_time_that_is_too_short_for_a_problem_is_said(tmp_path, small, monkeypatch):
    monkeypatch.setattr(budget, "LEAST_STEPS", 10**9)
    cells = [Cell(name, 6, METHODS) for name in ("one", "two")]
    made = make_atlas(cells, tmp_path, seconds=60)
    assert all("say nothing" in why for why in made.missing.values())
    assert len(made.missing) == 2
    page = tmp_path / "atlas.html"
    write_atlas(made, page)
    assert "not known yet: no problem is finished" in page.read_text(encoding="utf-8")


def test_a_wrong_method_is_not_hidden(tmp_path):
    with pytest.raises(ValueError, match="not an optimizer"):
        make_atlas([Cell("sparse-regression", 6, ("adm",))], tmp_path)
