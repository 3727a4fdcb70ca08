import pytest


def pytest_collection_modifyitems(items):
    """Tests use bare tensors and infinite depth on purpose; other tests are for the warnings."""
    for item in items:
        if "/optim/" in str(item.path):
            for message in (
                "the shape of a parameter does not tell all",
                "depth=inf freezes",
                "the model is on the meta device",
            ):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{message}"))
