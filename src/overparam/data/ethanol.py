"""Ethanol: predict the concentration of ethanol from 128 features of gas sensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from overparam.data._dataset import RegressionDataset
from overparam.data._text import TextFile, finite_number, text_lines, zip_members
from overparam.data.errors import ContentError, line_error, shorten

ROWS = 2565
LABEL_MEAN = 114.95029239766082
LABEL_STD = 86.63749164182786

_FEATURES = 128
_PREFIXES = tuple(f"{index}:" for index in range(1, _FEATURES + 1))
_GASES = ("1", "2", "3", "4", "5", "6")
_ETHANOL = 1
_BATCHES = tuple(f"batch{number}.dat" for number in range(1, 11))


class UciRow(NamedTuple):
    """One measurement: its line number and text, gas class, concentration (ppmv), features."""

    line: int
    text: str
    gas: int
    concentration: float
    features: list[float]


def parse_uci(lines: Iterable[str]) -> Iterator[UciRow]:
    """Read lines of the form ``class;concentration 1:v 2:v ... 128:v``.

    The gas class is 1 to 6, the indices run from 1 to 128 in order, all numbers are finite.

    Raises:
        ContentError: a line has another form; the message says which, and what was expected.

    Example:
        >>> text = "1;10.5 " + " ".join(f"{index}:{index / 2}" for index in range(1, 129))
        >>> [row] = parse_uci([text])
        >>> row.gas, row.concentration, row.features[:3]
        (1, 10.5, [0.5, 1.0, 1.5])
    """
    for line, text in enumerate(lines, start=1):
        head, *fields = text.split() or [""]
        gas, _, concentration = head.partition(";")
        value = finite_number(concentration)
        if gas not in _GASES or value is None:
            raise line_error(line, shorten(head), "'class;concentration' with a class of 1 to 6")
        if len(fields) != _FEATURES:
            raise line_error(line, f"{len(fields)} features", f"{_FEATURES}")
        features = []
        for prefix, entry in zip(_PREFIXES, fields, strict=True):
            feature = finite_number(entry[len(prefix) :])
            if feature is None or not entry.startswith(prefix):
                raise line_error(line, shorten(entry), f"'{prefix}' and a finite number")
            features.append(feature)
        yield UciRow(line, text, int(gas), value, features)


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


ETHANOL = RegressionDataset(
    name="ethanol",
    title="Concentration of ethanol from 128 gas sensor features (the paper's problem)",
    rows=ROWS,
    features=_FEATURES,
    outputs=1,
    provenance="UCI 270, Gas Sensor Array Drift at Different Concentrations, gas class 1, "
    "DOI 10.24432/C5MK6M",
    licence="CC BY 4.0",
    files=(
        TextFile(
            path="gas_ethanol/ethanol.dat",
            cached="ethanol.dat",
            sha256="e2ff4dd7f9bfd88b690a471b96414ae7e46098e30f6ddffad016e437883e4b2d",
            numbers="bb94d51f9990385fac26a1a821f7ad4a40874571e3e9b4c1828e66ef4bf0f8bc",
            urls=(
                "https://archive.ics.uci.edu/static/public/270/"
                "gas%2Bsensor%2Barray%2Bdrift%2Bdataset%2Bat%2Bdifferent%2Bconcentrations.zip",
            ),
            archive_sha256="98fe3a30981a222dd4518fbcc3dddd45d5c0ce9b03ef6dc6fe5cf7a04cfbff5e",
            extract=ethanol_from_archive,
            parser=parse_ethanol,
        ),
    ),
)
