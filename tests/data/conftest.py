import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.uci_files import serving

_NAMED = os.environ.get("OVERPARAM_DATA")
_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the cache or the folder of the person who runs it, nor a proxy."""
    monkeypatch.delenv("OVERPARAM_DATA", raising=False)
    monkeypatch.setenv("OVERPARAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def real_folder() -> Path:
    folder = Path(_NAMED) if _NAMED else _ROOT.parent / "shared" / "data"
    if not (folder / "gas_ethanol" / "ethanol.dat").is_file():
        pytest.skip("the real data is not here: set OVERPARAM_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with serving() as url:
        yield url
