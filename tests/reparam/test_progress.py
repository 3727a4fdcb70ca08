"""The bar of long calls, on a pretended terminal with a pretended clock."""

import io
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from overparam.reparam import collapse, overparameterize, progress
from overparam.reparam.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def line(self) -> str:
        """What a terminal would show."""
        cells: list[str] = []
        at = 0
        for character in self.getvalue():
            if character == "\r":
                at = 0
            else:
                cells[at : at + 1] = [character]
                at += 1
        return "".join(cells).rstrip()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error is a terminal, and every look at the clock finds two more seconds gone."""
    seconds = iter(range(0, 1000, 2))
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setenv("TERM", "xterm")
    pretended = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=pretended))
    return pretended


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(4)))


def test_a_bar_appears_after_five_seconds_and_goes(terminal: Terminal) -> None:
    with progress_bar("Work", 8, shown=True) as advance:
        advance(2)
        advance(2)
        assert terminal.getvalue() == ""
        advance(2)
        assert terminal.line == f"Work [{'#' * 30}{' ' * 10}]  75%"
        advance(2)
        assert terminal.line == f"Work [{'#' * 40}] 100%"
    assert terminal.line == ""


def test_both_ways_of_a_model_show_one(terminal: Terminal) -> None:
    model = overparameterize(make_model())
    assert [f"{part}%" in terminal.getvalue() for part in (50, 75, 100)] == [False, True, True]
    assert "Factoring weights" in terminal.getvalue()
    assert terminal.line == ""
    terminal.truncate(terminal.seek(0))
    collapse(model)
    assert [f"{part}%" in terminal.getvalue() for part in (50, 75, 100)] == [False, True, True]
    assert "Collapsing weights" in terminal.getvalue()
    assert terminal.line == ""


def test_the_state_of_an_optimizer_is_half_of_the_work(terminal: Terminal) -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    overparameterize(model, optimizer=optimizer)
    collapse(model, optimizer=optimizer)
    # Four weights, twice each; the first two steps of each call are too early.
    shown = [f"{part / 8:4.0%}" for part in range(1, 9)]
    assert [terminal.getvalue().count(part) for part in shown] == [0, 0, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("case", ["asked for", "no terminal", "dumb", "closed", "missing"])
def test_silence(case: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    stream: Any = terminal
    if case == "no terminal":
        stream = io.StringIO()
    elif case == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    elif case == "closed":
        stream = Terminal()
        stream.close()
    elif case == "missing":
        stream = None
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    shown = case != "asked for"
    collapse(overparameterize(make_model(), progress=shown), progress=shown)
    if case not in ("closed", "missing"):
        assert stream.getvalue() == ""


def test_an_error_leaves_a_clean_line(terminal: Terminal) -> None:
    model = make_model()
    with torch.no_grad():
        model[3].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"3\.weight"):
        overparameterize(model)
    assert "75%" in terminal.getvalue()
    assert terminal.line == ""
    assert overparameterize(make_model())
    assert terminal.line == ""


def test_a_terminal_that_is_gone_stops_nothing(terminal: Terminal) -> None:
    with progress_bar("Work", 1, shown=True) as advance:
        terminal.close()
        for _ in range(4):
            advance(0.25)


def test_of_two_threads_the_first_shows_its_bar(terminal: Terminal) -> None:
    def other() -> None:
        with progress_bar("Other", 3, shown=True) as advance:
            for _ in range(3):
                advance(1)

    with progress_bar("Work", 4, shown=True) as advance:
        for _ in range(4):
            advance(1)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert terminal.line.startswith("Work")
        assert "Other" not in terminal.getvalue()
    other()
    assert "Other" in terminal.getvalue()
    assert terminal.line == ""
