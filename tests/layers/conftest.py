import functools

import pytest

from overparam.layers import registry


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the table of layers, so that no test sees what another has registered."""
    table = functools.singledispatch(registry._view.dispatch(object))
    for layer, function in registry._view.registry.items():
        if layer is not object:
            table.register(layer, function)
    monkeypatch.setattr(registry, "_view", table)
