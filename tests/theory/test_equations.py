import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import overparam
import overparam.theory
from overparam import (
    balanced_initialization,
    factor_product,
    factor_product_vjp,
    identity_initialization,
    imbalance,
)

_ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (?P<equation>[^|]+) \| `(?P<function>[^`]+)` \| `(?P<test>[^`]+)` \|$")
_LINES = (_ROOT / "docs" / "equations.md").read_text(encoding="utf-8").splitlines()
_ROWS = [match for line in _LINES if (match := _ROW.match(line))]


def _stating_a_formula() -> set[str]:
    """Public functions whose docstring names a source."""
    found = {
        f"overparam.{name}": getattr(overparam, name)
        for name in overparam.__all__
        if inspect.isfunction(getattr(overparam, name))
    }
    for info in pkgutil.iter_modules(overparam.theory.__path__):
        module = importlib.import_module(f"overparam.theory.{info.name}")
        for name, item in inspect.getmembers(module, inspect.isfunction):
            if item.__module__ == module.__name__ and not name.startswith("_"):
                found[f"{module.__name__}.{name}"] = item
    return {name for name, item in found.items() if "Source:" in (item.__doc__ or "")}


def test_every_line_of_the_table_is_read() -> None:
    assert len(_ROWS) == sum(line.startswith("|") for line in _LINES) - 2


def test_the_table_names_every_function_that_states_a_formula_and_no_other() -> None:
    listed = [row["function"] for row in _ROWS]
    assert len(listed) == len(set(listed))
    assert set(listed) == _stating_a_formula()


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row["function"])
def test_the_test_exists_and_its_file_imports_the_function(row: re.Match[str]) -> None:
    path, name = row["test"].split("::")
    tree = ast.parse((_ROOT / path).read_text(encoding="utf-8"))
    tests = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name in tests
    module, function = row["function"].rsplit(".", 1)
    imported = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }
    assert function in imported
    # The test uses it by itself or through a helper of its file.
    helpers = [node for key, node in tests.items() if key.startswith("_")]
    called = {
        part.id
        for node in (tests[name], *helpers)
        for part in ast.walk(node)
        if isinstance(part, ast.Name)
    }
    assert function in called


def test_initializations_are_what_they_say() -> None:
    balanced = balanced_initialization(3, 4, 3, std=1.0, dtype=torch.float64)
    assert imbalance(balanced).max() < 1e-12
    assert factor_product(balanced).norm() > 0.1
    identity = identity_initialization(3, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(factor_product(identity), torch.eye(3, 4, dtype=torch.float64))


def test_gradients_of_factors_are_those_of_autograd() -> None:
    factors = [torch.randn(3, 2).double(), torch.randn(4, 3).double(), torch.randn(2, 4).double()]
    leaves = [factor.clone().requires_grad_() for factor in factors]
    explicit, cotangent = leaves[2] @ leaves[1] @ leaves[0], torch.randn(2, 2).double()
    torch.testing.assert_close(factor_product(factors), explicit.detach())
    expected = torch.autograd.grad(explicit, leaves, cotangent)
    torch.testing.assert_close(factor_product_vjp(factors, cotangent), expected)
