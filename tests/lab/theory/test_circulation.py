import math
from pathlib import Path

import pytest
import torch

from overparam.lab.theory.circulation import check
from overparam.lab.verdicts import Verdict

_ETHANOL = Path(__file__).parents[4] / "shared" / "data" / "gas_ethanol" / "ethanol.dat"


@pytest.mark.skipif(not _ETHANOL.exists(), reason="the shared Ethanol file is absent")
def test_check_holds_on_ethanol() -> None:
    rows = [line.split() for line in _ETHANOL.read_text().splitlines()]
    targets = torch.tensor([float(row[0].split(";")[1]) for row in rows], dtype=torch.float64)
    features = torch.tensor(
        [[float(cell.split(":")[1]) for cell in row[1:]] for row in rows], dtype=torch.float64
    )
    features = (features - features.mean(0)) / features.std(0)
    targets = (targets - targets.mean()) / targets.std()
    result = check(features, targets, "Ethanol")
    assert result.verdict == Verdict.YES
    names = [m.what for m in result.evidence if "Ethanol" in m.what]
    assert len(names) == 4
    (size,) = (m.value for m in result.evidence if m.what.startswith("smallest |A|"))
    assert math.isfinite(size)
    assert size > 1e-3
