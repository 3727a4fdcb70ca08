import dataclasses
import json
import sys

import polars as pl
import pytest
import torch

from overparam import __main__ as entry
from overparam import __version__
from overparam.data import DataUnavailable, load
from overparam.lab import cluster, prepare
from overparam.lab.cli import parse
from overparam.lab.commands.options import GROUPS
from overparam.lab.store import StudyDirectory
from overparam.lab.study import Study

SMALL = [
    "--data", "diabetes", "--methods", "gd", "rule:2", "adam", "--iterations", "60", "--points",
    "20", "--seeds", "0", "--rates-per-decade", "1", "--lowest-rate", "1e-3", "--highest-rate",
    "1e-1", "--init-std", "0.1",
]  # fmt: skip


def test_run_and_report(command, tmp_path):
    status, out, errors = command("run", *SMALL)
    assert (status, errors) == (0, "")
    for text in ("Training: 100 %", "Iterations to reach a loss", "Adam", "after 60 iterations",
                 "Report: runs/study/report.html"):  # fmt: skip
        assert text in out
    assert "\x1b" not in out  # no bar and no colours outside a terminal
    folder = tmp_path / "runs" / "study"
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    status, again, errors = command("report", "study")
    assert (status, errors) == (0, "")
    assert (folder / "report.html").read_bytes() == page
    assert again in out


def test_the_same_command_again_trains_nothing_and_keeps_the_time(command, tmp_path):
    command("run", *SMALL)
    folder = tmp_path / "runs" / "study"
    curves = (folder / "curves.parquet").read_bytes()
    stored = folder / "jobs" / "0000.parquet"
    before, stamp = json.loads((folder / "run.json").read_text()), stored.stat().st_mtime_ns
    assert command("run", *SMALL)[0] == 0
    assert stored.stat().st_mtime_ns == stamp
    assert (folder / "curves.parquet").read_bytes() == curves
    after = json.loads((folder / "run.json").read_text())
    assert after["wall_seconds"] >= before["wall_seconds"]
    assert after["identity"] == before["identity"]


def test_overwrite(command, tmp_path):
    command("run", *SMALL)
    manifest = (tmp_path / "runs" / "study" / "run.json").read_bytes()
    status, _, errors = command("run", *SMALL, "--power", "2")
    assert status == 2
    assert "holds another study" in errors
    assert "--overwrite" in errors
    assert (tmp_path / "runs" / "study" / "run.json").read_bytes() == manifest
    assert command("run", *SMALL, "--power", "2", "--name", "other")[0] == 0
    assert command("run", *SMALL, "--power", "2", "--overwrite")[0] == 0
    first, second = (
        (tmp_path / "runs" / name / "curves.parquet").read_bytes() for name in ("study", "other")
    )
    assert first == second


def test_jobs_without_a_manifest_are_not_taken_for_another_study(command, tmp_path):
    """A damaged manifest has to be deleted; the curves left behind may be those of any study."""
    command("run", *SMALL, "--name", "other", "--power", "2")
    command("run", *SMALL)
    (tmp_path / "runs" / "study" / "run.json").unlink()
    assert command("run", *SMALL, "--power", "2")[0] == 0
    first, second = (
        (tmp_path / "runs" / name / "curves.parquet").read_bytes() for name in ("study", "other")
    )
    assert first == second


def test_a_damaged_manifest(command, tmp_path):
    command("run", *SMALL)
    manifest = tmp_path / "runs" / "study" / "run.json"
    manifest.write_text("{")
    for arguments in (("run", *SMALL), ("report", "study")):
        status, _, errors = command(*arguments)
        assert status == 2
        assert "run.json is damaged" in errors.replace("\n", " ")
    assert command("run", *SMALL, "--overwrite")[0] == 0


def test_a_damaged_job_is_named_and_can_be_redone(command, tmp_path):
    command("run", *SMALL)
    stored = tmp_path / "runs" / "study" / "jobs" / "0000.parquet"
    whole = stored.read_bytes()
    stored.write_bytes(whole[:100])
    status, _, errors = command("report", "study")
    assert status == 2
    assert "0000.parquet is damaged" in errors.replace("\n", "")
    stored.unlink()
    assert command("run", *SMALL)[0] == 0
    assert stored.read_bytes() == whole


def test_file_and_flags(command, tmp_path):
    (tmp_path / "study.toml").write_text(
        'data = "diabetes"\nmethods = ["gd", "rule:2"]\niterations = 30\nseeds = [5]\n'
        "rates_per_decade = 1\nlowest_rate = 0.01\nhighest_rate = 0.1\npoints = 10\n"
    )
    status, _, errors = command("run", "--file", "study.toml", "--seeds", "1", "2")
    assert (status, errors) == (0, "")
    study = StudyDirectory(tmp_path / "runs" / "study").read_manifest()["study"]
    assert study["seeds"] == [1, 2]
    assert study["iterations"] == 30
    assert study["methods"] == ["gd", "rule:2"]
    assert study["power"] == 4.0
    assert command("run", "--file=study.toml", "--name", "b")[0] == 0
    assert StudyDirectory(tmp_path / "runs" / "b").read_manifest()["study"]["seeds"] == [5]


def test_a_study_of_which_every_run_diverges_is_reported(command, tmp_path):
    rates = ["--lowest-rate", "1e3", "--highest-rate", "1e5"]
    status, out, errors = command("run", *SMALL[:14], *rates, "--methods", "gd", "rule:2")
    assert (status, errors) == (0, "")
    assert "Depth helps" not in out
    assert "nan" not in out
    page = (tmp_path / "runs" / "study" / "report.html").read_text(encoding="utf-8")
    assert "No method got halfway" in page


def test_a_single_method_rate_and_step(command):
    status, _, errors = command(
        "run", "--data", "diabetes", "--methods", "gd", "--iterations", "1", "--points", "1",
        "--seeds", "0", "--lowest-rate", "1e-2", "--highest-rate", "1e-2",
    )  # fmt: skip
    assert (status, errors) == (0, "")


def test_fallback_where_the_data_is_unavailable(command, tmp_path, monkeypatch):
    def unavailable(name, *, download=True):
        if name == "ethanol":
            raise DataUnavailable("ethanol: no network and no cache.")
        return load(name, download=download)

    monkeypatch.setattr(prepare, "load", unavailable)
    status, _, errors = command("run", *SMALL[2:])
    assert status == 2
    assert errors.strip() == "overparam: ethanol: no network and no cache."
    status, out, _ = command("run", *SMALL[2:], "--fallback", "diabetes")
    assert status == 0
    lines = [line for line in out.splitlines() if "ethanol" in line]
    assert lines == ["ethanol: no network and no cache. Using the embedded set 'diabetes' instead."]
    assert (
        StudyDirectory(tmp_path / "runs" / "study").read_manifest()["study"]["data"] == "diabetes"
    )
    assert command("run", *SMALL[2:], "--fallback", "diabets", "--name", "x")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--methods", "gd", "adm"], "Did you mean 'adam'"),
        (["run", "--methods", "rule:2x"], "is not a number"),
        (["run", "--data", "ethnol"], "ethanol"),
        (["run", "--powr", "4"], "--power"),
        (["run", "--power", "1"], "power is 1.0"),
        (["run", "--dtype", "half"], "use one of float64, float32"),
        (["run", "--workers", "0", *SMALL], "workers is 0; use at least 1"),
        (["run", "--device", "meta", *SMALL], "device 'meta' cannot be used here"),
        (["run", "--file", "absent.toml"], "absent.toml"),
        (["run", "--file", "bad.toml"], "bad.toml: unknown setting 'powr'. Did you mean 'power'"),
        (["report", "absent"], "holds no study; start one with: overparam run --name absent"),
        (["data", "verify", "diabets"], "diabetes"),
        (["data", "list", "diabets"], "diabetes"),
        (["rnu"], "run"),
        (["run", "--powr", "4"], "For full helptext, run overparam run --help"),
        (["theory", "--outptu", "x"], "For full helptext, run overparam theory --help"),
        (["--tyro-print-completion"], "name a shell after --tyro-print-completion: bash, zsh"),
        (["run", "--target", "y"], "--target names a column of a table; name the file with --csv"),
        (["run", "--features", "a"], "--features names a column of a table"),
        (["run", "--csv", "absent.csv", "--target", "y"], "absent.csv cannot be read"),
        (["run", "--csv", "a.csv"], "name the column to predict with --target"),
        (["run", "--csv", "a.csv", "--target", "c"], "row 2 (line 3), column 'b': 'x' is not"),
        (
            ["run", "--csv", "a.csv", "--data", "diabetes"],
            "--csv is a.csv; use only one",
        ),
        (["run", "--csv", "a.csv", "--fallback", "diabetes"], "leave it out with --csv"),
    ],
)
def test_errors_are_one_paragraph_with_a_remedy(command, tmp_path, arguments, message):
    (tmp_path / "bad.toml").write_text("powr = 4\n")
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3\n4,x,6\n")
    status, out, errors = command(*arguments)
    assert status == 2
    shown = " ".join((out + errors).replace("│", " ").split())
    assert message in shown
    assert "Training" not in shown
    assert not (tmp_path / "runs").exists()
    assert "\n\n" not in errors.strip()


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--help"], ["run", "report", "data", "Arora"]),
        (
            ["run", "--help"],
            [
                "overparam run --file study.toml",
                "--methods",
                "--power",
                "ethanol",
                "your data",
                "--csv",
                "--parquet",
                "--target",
                "learning rate options",
                "initialization options",
            ],
        ),
        (["--help"], ["overparam --version", "overparam --tyro-print-completion bash"]),
        (["report", "--help"], ["overparam report study", "--output"]),
        (["data", "--help"], ["overparam data fetch ethanol", "verify"]),
    ],
)
def test_help(command, arguments, texts):
    status, out, errors = command(*arguments)
    assert (status, errors) == (0, "")
    for text in texts:
        assert text in out


@pytest.mark.parametrize("name", ["run", "report", "reproduce", "theory", "data"])
def test_help_has_no_noise(command, name):
    _, out, _ = command(name, "--help")
    for noise in ("(default: )", "{None}", "--no-", "(default: None)", "(default: False)"):
        assert noise not in out


def test_every_setting_of_a_study_is_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(field.name for field in dataclasses.fields(Study))


def test_version_and_completion(command):
    assert command("--version") == (0, f"overparam {__version__}\n", "")
    for shell in ("bash", "zsh", "fish"):
        status, out, _ = command("--tyro-print-completion", shell)
        assert status == 0
        assert "overparam" in out
        assert "reproduce" in out


def test_a_file_with_a_byte_order_mark(command, tmp_path):
    (tmp_path / "study.toml").write_text("power = 6\n", encoding="utf-8-sig")
    assert parse(["run", "--file", "study.toml"]).study.power == 6  # pyright: ignore


def test_a_table_of_the_user(command, tmp_path):
    raw = load("diabetes")
    names = [f"x{i}" for i in range(raw.features.shape[1])]
    rows = torch.cat([raw.features, raw.targets], dim=1).tolist()
    table = pl.DataFrame(rows, schema=[*names, "<y>"], orient="row")
    (tmp_path / "a[1]").mkdir()
    table.write_csv(tmp_path / "a[1]" / "my <b>.csv")
    table.write_parquet(tmp_path / "other.parquet")
    settings = [*SMALL[2:], "--target", "<y>"]
    status, _, errors = command("run", "--csv", "a[1]/my <b>.csv", *settings)
    assert (status, errors) == (0, "")
    folder = tmp_path / "runs" / "study"
    manifest = StudyDirectory(folder).read_manifest()
    assert manifest["study"]["data"] == f"sha256:{raw.fingerprint}"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "The my &lt;b&gt;.csv data" in page
    assert "&lt;y&gt; from 10 features" in page
    assert "<b>" not in page
    assert command("report", "study")[0] == 0
    # The same contents in another file are the same study, and the numbers those of the known set.
    stored = folder / "jobs" / "0000.parquet"
    stamp = stored.stat().st_mtime_ns
    assert command("run", "--parquet", "other.parquet", *settings)[0] == 0
    assert stored.stat().st_mtime_ns == stamp
    assert command("run", *SMALL, "--name", "known")[0] == 0
    first, second = (
        (tmp_path / "runs" / name / "curves.parquet").read_bytes() for name in ("study", "known")
    )
    assert first == second
    features = ["--features", "x2", "x3", "--overwrite"]
    assert command("run", "--csv", "other.parquet", *settings, *features)[0] == 0
    assert StudyDirectory(folder).read_manifest()["data"]["features"] == 2


def test_data(command):
    status, out, _ = command("data", "list", "diabetes")
    assert status == 0
    assert "442" in out
    assert "ethanol" not in out
    status, out, _ = command("data", "verify", "diabetes", "digits")
    assert status == 0
    assert out.count("verified") == 2
    status, out, _ = command("data", "fetch", "diabetes")
    assert (status, out.strip()) == (0, "diabetes: embedded, nothing to fetch")


def test_an_interrupt_before_training_is_an_exit_status(command, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "_optimum", interrupted)
    assert command("run", *SMALL)[0] == 130


def test_an_interrupted_run_is_reported_as_unfinished(command, monkeypatch, tmp_path):
    finishing = cluster.run_jobs
    monkeypatch.setattr(
        cluster, "run_jobs", lambda *rest, **more: finishing(*rest, **more) and False
    )
    status, out, _ = command("run", *SMALL)
    assert status == 130
    assert "Interrupted. Finished work is kept; the same command continues it." in out
    folder = tmp_path / "runs" / "study"
    assert "<strong>Unfinished:</strong>" in (folder / "report.html").read_text(encoding="utf-8")
    assert not pl.read_parquet(folder / "curves.parquet").is_empty()


def test_the_command_says_which_extra_it_lacks(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("overparam.lab")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["overparam"], "lab", raising=False)
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert entry.main() == 2
    assert 'tyro, which is not installed; install the lab: pip install "overparam[lab]"' in (
        capsys.readouterr().err
    )
