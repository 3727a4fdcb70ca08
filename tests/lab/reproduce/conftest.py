import pytest
from reproduce_cases import rerun


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("reproduce")
    assert rerun(output) == 0
    return output / "reproduce-tiny"
