"""The lab: tuned, reproducible studies of whether depth makes training faster."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overparam.lab.comparison import Problem, compare

__all__ = ["Problem", "compare"]


def __getattr__(name: str) -> Any:
    """The instrument, imported when it is asked for."""
    if name in __all__:
        from overparam.lab import comparison

        return getattr(comparison, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
