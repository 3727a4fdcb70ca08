"""What the package says about itself agrees in all places."""

import re
import tomllib
from pathlib import Path

import overparam

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_version_to_cite_is_the_version():
    assert re.findall(r"^version: (.*)$", CITATION, re.MULTILINE) == [overparam.__version__]


def test_licence_to_cite_is_the_licence():
    assert re.findall(r"^license: (.*)$", CITATION, re.MULTILINE) == [PROJECT["license"]]


def test_authors_to_cite_are_the_authors():
    first = re.search(r'^authors:\n  - name: "(.*)"$', CITATION, re.MULTILINE)
    assert first is not None
    assert first[1] == PROJECT["authors"][0]["name"]


def test_types_are_shipped():
    assert (Path(overparam.__file__).parent / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_oldest_torch_is_the_one_that_make_tests():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    allowed = re.search(r"^torch>=(.*)$", "\n".join(PROJECT["dependencies"]), re.MULTILINE)
    tested = re.search(r"torch==(\d+\.\d+)\.\d+", makefile)
    assert allowed is not None
    assert tested is not None
    assert tested[1] == allowed[1]
