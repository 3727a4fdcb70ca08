"""`overparam data` with folders whose names shells, libraries or terminals give a meaning to."""

from pathlib import Path

import pytest

from overparam.data._known import cache_folder, data_folder
from overparam.lab.cli import main


@pytest.mark.parametrize("name", ["[red]a[bold]", ":smile:", "{x}", "a*?", "file:x", "~"])
def test_a_folder_with_an_odd_name_is_shown_whole(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name / "abalone"
    folder.mkdir(parents=True)
    (folder / "abalone.data").write_text("no data\n")
    monkeypatch.setenv("OVERPARAM_DATA", f"./{name}")
    monkeypatch.setenv("COLUMNS", "30")
    assert main(["data", "list", "abalone"]) == 0
    out = capsys.readouterr().out
    assert f"{name}/abalone/abalone.data" in out
    assert main(["data", "verify", "abalone"]) == 2
    assert f"{name}/abalone/abalone.data, line 1: found 'no data'" in capsys.readouterr().out


def test_the_home_folder_is_named_by_a_tilde_at_the_start_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for named, expected in (
        ("~/data", tmp_path / "data"),
        ("./~/data", Path("~/data")),
        ("~nobody-of-this-name/x", Path("~nobody-of-this-name/x")),
    ):
        monkeypatch.setenv("OVERPARAM_DATA", named)
        monkeypatch.setenv("OVERPARAM_CACHE", named)
        assert data_folder() == cache_folder() == expected


def test_a_cache_that_cannot_be_written_is_found_before_the_download(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("OVERPARAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OVERPARAM_DATA", raising=False)
    monkeypatch.setattr("overparam.data._known.fetch_content", None)
    assert main(["data", "fetch", "ethanol", "mnist"]) == 2
    out = capsys.readouterr().out
    assert out.count("File exists; make room there or set OVERPARAM_CACHE") == 2


def test_what_is_not_here_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OVERPARAM_CACHE", str(tmp_path))
    monkeypatch.delenv("OVERPARAM_DATA", raising=False)
    assert main(["data", "list", "ethanol", "diabetes"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Not here: run `overparam data fetch ethanol`" in out
    assert "fetch diabetes" not in out
