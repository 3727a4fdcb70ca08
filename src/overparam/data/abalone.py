"""Abalone: predict the age of a sea snail, counted in rings, from its size, weight and sex."""

from __future__ import annotations

import torch
from torch import Tensor

from overparam.data._dataset import RegressionDataset
from overparam.data._text import TextFile, finite_number, text_lines, zip_members
from overparam.data.errors import line_error, shorten

_MEMBER = "abalone.data"
_SEXES = {"M": (0.0, 0.0), "F": (1.0, 0.0), "I": (0.0, 1.0)}


def parse_abalone(content: bytes) -> tuple[Tensor, Tensor]:
    r"""Features ``(rows, 9)`` and rings ``(rows, 1)`` from lines ``sex,length,...,rings``.

    Columns 0 to 6 are the measurements in the order of the file. Columns 7 and 8 are 1 for female
    and for infant; both are 0 for male. With a third column the centred features would be linearly
    dependent and the least-squares weight would not be unique.

    Raises:
        ContentError: a line has another form.

    Example:
        >>> parse_abalone(b"I,0.33,0.255,0.08,0.205,0.0895,0.0395,0.055,7\n")[0][0, 5:].tolist()
        [0.0395, 0.055, 0.0, 1.0]
    """
    features, rings = [], []
    for line, text in enumerate(text_lines(content), start=1):
        sex, *fields = text.strip().split(",")
        if sex not in _SEXES or len(fields) != 8:
            raise line_error(line, shorten(text), "M, F or I and 8 numbers, separated by commas")
        numbers = []
        for entry in fields:
            number = finite_number(entry)
            if number is None:
                raise line_error(line, shorten(entry), "a finite number")
            numbers.append(number)
        features.append([*numbers[:-1], *_SEXES[sex]])
        rings.append(numbers[-1:])
    return torch.tensor(features, dtype=torch.float64), torch.tensor(rings, dtype=torch.float64)


def abalone_from_archive(archive: bytes) -> bytes:
    """The file of the data in the archive of UCI; raises ContentError if it is not there."""
    return zip_members(archive, [_MEMBER])[_MEMBER]


ABALONE = RegressionDataset(
    name="abalone",
    title="Rings (age) of abalone from size, weight and sex",
    rows=4177,
    features=9,
    outputs=1,
    provenance="UCI 1, Abalone, DOI 10.24432/C55C7W",
    licence="CC BY 4.0",
    files=(
        TextFile(
            path="abalone/abalone.data",
            cached="abalone.data",
            sha256="de37cdcdcaaa50c309d514f248f7c2302a5f1f88c168905eba23fe2fbc78449f",
            numbers="5ee2862dba87c6cf35d7cc038b64182ef5ab1d2966b73a4c539794da8eb84bfc",
            urls=("https://archive.ics.uci.edu/static/public/1/abalone.zip",),
            archive_sha256=None,
            extract=abalone_from_archive,
            parser=parse_abalone,
        ),
    ),
)
