import ast
import importlib
import sys
from pathlib import Path

import pytest

import overparam.theory


@pytest.mark.parametrize("name", sorted(overparam.theory._MOVED))
def test_names_that_have_moved_are_forwarded_with_a_warning(name: str) -> None:
    module, _, new = overparam.theory._MOVED[name].rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"from {module} import {new}"):
        found = getattr(overparam.theory, name)
    assert found is getattr(importlib.import_module(module), new)


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'depth'"):
        _ = overparam.theory.depth


def test_theory_needs_torch_alone() -> None:
    for file in Path(overparam.theory.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [str(node.module)]
            else:
                continue
            for module in modules:
                assert module.split(".")[0] in {"overparam", "torch"} | sys.stdlib_module_names
                assert not module.startswith(("overparam.lab", "overparam.data"))
