import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Workers of pytest-xdist share the cores; one thread each keeps them from fighting."""
    torch.set_num_threads(1)
