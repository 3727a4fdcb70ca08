import ast
import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import overparam
import overparam.lab.theory
import overparam.theory
from overparam import factor_product, factor_product_vjp

_ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (?P<equation>[^|]+) \| `(?P<function>[^`]+)` \| `(?P<test>[^`]+)` \|$")
_TEXT = (_ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
_LINES = _TEXT.splitlines()
_ROWS = [match for line in _LINES if (match := _ROW.match(line))]


def _stating_a_formula() -> set[str]:
    """Public functions whose docstring names a source."""
    found = {
        f"overparam.{name}": getattr(overparam, name)
        for name in overparam.__all__
        if inspect.isfunction(getattr(overparam, name))
    }
    modules = ["overparam.simple"]
    modules += [
        f"overparam.rule.{name}" for name in ("radial", "unbalanced", "entrywise", "metric", "sign")
    ]
    for package in (overparam.theory, overparam.lab.theory):
        infos = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        modules.extend(info.name for info in infos)
    for module in map(importlib.import_module, modules):
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


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row["function"])
def test_the_test_fails_where_the_function_is_off_by_one_percent(
    row: re.Match[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = row["test"].split("::")
    module = _load(_ROOT / path)
    function = row["function"].rsplit(".", 1)[1]
    right, test = getattr(module, function), getattr(module, name)
    for case in _cases(test):
        monkeypatch.setattr(module, function, _off_by_one_percent(right))
        try:
            test(**case)
        except (AssertionError, pytest.skip.Exception) as outcome:
            if isinstance(outcome, AssertionError):
                monkeypatch.setattr(module, function, right)
                test(**case)
                return
    pytest.fail(f"{name} passes whatever {function} says")


def _load(path: Path) -> ModuleType:
    """A test file as a module of its own, so that nothing else sees it changed."""
    spec = importlib.util.spec_from_file_location(f"changed_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cases(test: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """The arguments that ``pytest.mark.parametrize`` gives to a test."""
    axes = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args
            names = (names,) if isinstance(names, str) else names
            sets = [value if len(names) > 1 else (value,) for value in values]
            axes.append([dict(zip(names, each, strict=True)) for each in sets])
    for chosen in itertools.product(*axes):
        yield {name: value for part in chosen for name, value in part.items()}


def _off_by_one_percent(value: Any) -> Any:
    """Every number in a result, or in what a resulting function returns."""
    if isinstance(value, Tensor):
        return 1.01 * value if value.is_floating_point() else value
    if isinstance(value, float):
        return 1.01 * value
    if isinstance(value, dict):
        return {key: _off_by_one_percent(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_off_by_one_percent(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if callable(value):
        return lambda *args, **kwargs: _off_by_one_percent(value(*args, **kwargs))
    return value


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.*?)^```", _TEXT, re.M | re.S))
def test_examples_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "equations.md", "exec"), {})
    assert capsys.readouterr().out


def test_the_theory_package_exports_every_function_of_the_table() -> None:
    listed = [row["function"] for row in _ROWS if row["function"].startswith("overparam.theory.")]
    for path in listed:
        module, name = path.rsplit(".", 1)
        assert name in overparam.theory.__all__
        assert getattr(overparam.theory, name) is getattr(importlib.import_module(module), name)


def test_gradients_of_factors_are_those_of_autograd() -> None:
    factors = [torch.randn(3, 2).double(), torch.randn(4, 3).double(), torch.randn(2, 4).double()]
    leaves = [factor.clone().requires_grad_() for factor in factors]
    explicit, cotangent = leaves[2] @ leaves[1] @ leaves[0], torch.randn(2, 2).double()
    torch.testing.assert_close(factor_product(factors), explicit.detach())
    expected = torch.autograd.grad(explicit, leaves, cotangent)
    torch.testing.assert_close(factor_product_vjp(factors, cotangent), expected)
