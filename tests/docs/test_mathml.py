import ast
import re
from inspect import cleandoc
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="Sphinx is not installed; install the extra 'docs'")
ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^\.\. math::\n((?:\n|[ ]+.*\n)+)", re.MULTILINE)
_HAS_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef)


def formulas() -> list:
    """Every displayed formula in a docstring, by file and line."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, _HAS_DOCSTRING) else None
            for number, formula in enumerate(_BLOCK.findall(cleandoc(text or "") + "\n")):
                name = getattr(node, "name", "module")
                found.append(pytest.param(formula, id=f"{path.stem}.{name}-{number}"))
    return found


@pytest.fixture(scope="module")
def mathml(tool):
    return tool("mathml").mathml


@pytest.mark.parametrize("formula", formulas())
def test_formulas_of_docstrings_are_drawn(mathml, formula):
    assert mathml(formula, block=True).startswith("<math")


def test_words_for_sizes_are_left_out(mathml):
    assert mathml(r"\ln a \Big/ \biggl( b \biggr)", block=False) == mathml(
        r"\ln a / ( b )", block=False
    )


def test_unknown_commands_are_named(mathml):
    with pytest.raises(Exception, match="nosuchcommand"):
        mathml(r"\nosuchcommand{a}", block=False)
