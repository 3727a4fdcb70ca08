"""One table of matrices that drives the tests of the rule."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DEPTHS = (1, 1.5, 2, 2.5, 3, 5, 8, math.inf)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@dataclass(frozen=True)
class Case:
    """A matrix by its shape and nonzero singular values."""

    name: str
    m: int
    n: int
    singular: tuple[float, ...]
    # Narrower types hold the matrix too coarsely for the case to mean the same.
    float64_only: bool = False

    @property
    def rank(self) -> int:
        return len(self.singular)

    def weight(self, dtype: torch.dtype = torch.float64) -> Tensor:
        left, right = orthogonal(self.m, seed=1), orthogonal(self.n, seed=2)
        values = torch.tensor(self.singular, dtype=torch.float64)
        return (left[:, : self.rank] * values @ right[:, : self.rank].mT).to(dtype)

    def gradient(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return normal(self.m, self.n, seed=3).to(dtype)

    def tolerance(self, depth: float, dtype: torch.dtype) -> float:
        """The promised accuracy, or where it is coarser, the effect of rounding the weight.

        The small singular value t enters as ``t^(2/N)``, so that a relative change eps of the
        weight changes the update by ``eps * cond^(1 - 2/N)``.
        """
        cond = max(self.singular, default=1.0) / min(self.singular, default=1.0)
        return max(TOLERANCE[dtype], torch.finfo(torch.float64).eps * cond ** (1 - 2 / depth))

    def __str__(self) -> str:
        return self.name


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def orthogonal(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


def log_spaced(smallest: float, count: int) -> tuple[float, ...]:
    return tuple(smallest ** (k / (count - 1)) for k in range(count))


FULL_RANK = (
    Case("wide", 4, 7, (3.0, 2.0, 1.0, 0.5)),
    Case("tall", 7, 4, (3.0, 2.0, 1.0, 0.5)),
    Case("square", 5, 5, (4.0, 3.0, 2.0, 1.0, 0.1)),
    Case("very-wide", 2, 40, (2.0, 1.0)),
    Case("row", 1, 6, (2.5,)),
    Case("column", 6, 1, (2.5,)),
    Case("scalar", 1, 1, (0.7,)),
    Case("repeated-wide", 3, 5, (2.0, 2.0, 2.0)),
    Case("repeated-tall", 6, 4, (3.0, 3.0, 1.0, 1.0)),
    *(
        Case(f"gap-{gap:g}", 4, 6, (2.0, 2.0 * (1 - gap), 1.0, 1.0 + gap))
        for gap in (1e-16, 1e-12, 1e-8, 1e-6, 1e-4, 1e-3)
    ),
    Case("cond-1e6-wide", 5, 8, log_spaced(1e-6, 5)),
    Case("cond-1e6-square", 6, 6, log_spaced(1e-6, 6)),
    Case("cond-1e6-cluster", 6, 8, (1.0, 1e-3, 3e-6, 2e-6, 1.1e-6, 1e-6)),
    Case("cond-1e10-tall", 8, 5, log_spaced(1e-10, 5), float64_only=True),
    Case("cond-1e10-square", 6, 6, log_spaced(1e-10, 6), float64_only=True),
)
CASES = (
    *FULL_RANK,
    Case("rank-2-wide", 4, 7, (3.0, 1.0)),
    Case("rank-2-tall", 7, 4, (3.0, 1.0)),
    Case("rank-3-square", 5, 5, (3.0, 3.0, 1e-4)),
    Case("rank-1-small", 2, 2, (1.0,)),
    Case("rank-1-large", 24, 32, (1.0,)),
    Case("rank-20-large", 40, 24, (1.0,) * 20),
    Case("zero-wide", 3, 5, ()),
    Case("zero-tall", 5, 3, ()),
    Case("zero-row", 1, 4, ()),
)
