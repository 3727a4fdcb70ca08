"""Two and four processes do what one does. They are started once, for all cases of a number."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support import (
    forks,
    sharded_accelerate,
    sharded_checkpoints,
    sharded_faults,
    sharded_steps,
)
from support.sharded_cases import Case, run_all

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)


def run_on(world: int, folder: Path, cases: tuple[Case, ...]) -> None:
    """Run the cases on so many processes; where one fails, stop all of them."""
    folder.mkdir()
    started = forks.start(run_all, (world, str(folder), cases), world)
    try:
        ended = False
        for _ in range(30):  # a process group gives up after a minute
            if ended := started.join(timeout=10):
                break
        assert ended, "the processes did not end"
    except torch.multiprocessing.ProcessExitedException:
        reports = [path.read_text() for path in sorted(folder.glob("report-*"))]
        pytest.fail("\n".join(reports), pytrace=False)
    finally:
        for process in started.processes:
            process.kill()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch 2.9 in its checkpoints
def test_processes_do_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sharded_checkpoints.FOLDER, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sharded_checkpoints.write_all(1)
    cases = (*sharded_steps.CASES, *sharded_faults.CASES, *sharded_accelerate.CASES)
    run_on(2, tmp_path / "two", (sharded_checkpoints.checkpoints_on_two, *cases))
    run_on(4, tmp_path / "four", (sharded_checkpoints.checkpoints_on_four, *sharded_steps.FEWER))
    sharded_checkpoints.read_all(2)
    sharded_checkpoints.read_all(4, ("flattened",))
    sharded_checkpoints.read_all("copies", ("nested",))
