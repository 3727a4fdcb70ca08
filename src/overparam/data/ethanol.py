"""Ethanol: predict the concentration of ethanol from 128 features of gas sensors."""

from __future__ import annotations

import torch
from torch import Tensor

from overparam.data._download import zip_members
from overparam.data._local_files import text_lines
from overparam.data._text_dataset import TextDataset
from overparam.data._uci import parse_uci
from overparam.data.errors import ContentError, line_error

ROWS = 2565
LABEL_MEAN = 114.95029239766082
LABEL_STD = 86.63749164182786

_ETHANOL = 1
_BATCHES = tuple(f"batch{number}.dat" for number in range(1, 11))


def ethanol_from_archive(archive: bytes) -> bytes:
    """The Ethanol lines of the ten batches in the archive of UCI 270, in batch order.

    Raises:
        ContentError: the archive or a line of a batch is broken.
    """
    members = zip_members(archive, _BATCHES)
    kept = []
    for name in _BATCHES:
        try:
            rows = parse_uci(text_lines(members[name]))
            kept += [row.text for row in rows if row.gas == _ETHANOL]
        except ContentError as error:
            raise ContentError(f"{name}, {error}") from error
    return "".join(f"{text}\n" for text in kept).encode("ascii")


def parse_ethanol(
    content: bytes, rows: int = ROWS, mean: float = LABEL_MEAN, std: float = LABEL_STD
) -> tuple[Tensor, Tensor]:
    """Features ``(rows, 128)`` and concentrations ``(rows, 1)`` from the file of Ethanol lines.

    Raises:
        ContentError: a line is broken, repeated or of another gas; there are too few or too many
            lines; or the mean or the standard deviation (ddof 1) of the label is wrong.
    """
    features, concentrations = [], []
    seen: dict[str, int] = {}
    for row in parse_uci(text_lines(content)):
        if row.gas != _ETHANOL:
            raise line_error(row.line, f"gas class {row.gas}", f"class {_ETHANOL}, ethanol")
        first = seen.setdefault(row.text.strip(), row.line)
        if first != row.line:
            raise line_error(row.line, f"a repetition of line {first}", "a new measurement")
        features.append(row.features)
        concentrations.append([row.concentration])
    if len(features) != rows:
        raise line_error(len(features), f"the last of {len(features)} lines", f"{rows} lines")
    targets = torch.tensor(concentrations, dtype=torch.float64)
    for what, found, expected in (
        ("mean", targets.mean().item(), mean),
        ("standard deviation", targets.std(correction=1).item(), std),
    ):
        if abs(found - expected) > 1e-12 * abs(expected):
            raise ContentError(f"found a label of {what} {found!r}, expected {expected!r}")
    return torch.tensor(features, dtype=torch.float64), targets


ETHANOL = TextDataset(
    name="ethanol",
    title="Concentration of ethanol from 128 gas sensor features (the paper's problem)",
    rows=ROWS,
    features=128,
    outputs=1,
    provenance="UCI 270, Gas Sensor Array Drift at Different Concentrations, gas class 1, "
    "DOI 10.24432/C5MK6M",
    licence="CC BY 4.0",
    file="gas_ethanol/ethanol.dat",
    sha256="e2ff4dd7f9bfd88b690a471b96414ae7e46098e30f6ddffad016e437883e4b2d",
    numbers="bb94d51f9990385fac26a1a821f7ad4a40874571e3e9b4c1828e66ef4bf0f8bc",
    url="https://archive.ics.uci.edu/static/public/270/"
    "gas%2Bsensor%2Barray%2Bdrift%2Bdataset%2Bat%2Bdifferent%2Bconcentrations.zip",
    archive_sha256="98fe3a30981a222dd4518fbcc3dddd45d5c0ce9b03ef6dc6fe5cf7a04cfbff5e",
    extract=ethanol_from_archive,
    parse=parse_ethanol,
)
