"""The numbers of a chart as tables, for readers who cannot see it or want to copy them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ROWS = 12
_DRAWN = {"line", "point", "circle", "square", "tick", "bar", "rect"}
_CHILDREN = ("layer", "hconcat", "vconcat", "concat")
_NAMES = ("nominal", "ordinal")

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class ChartTable:
    """A table of numbers.

    Attributes:
        title: of the panel; may be empty.
        header: names of the columns.
        rows: cells.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def chart_tables(spec: Spec) -> list[ChartTable]:
    """A table for each panel of a chart.

    Lines become a column each, at a dozen of the values of their horizontal axis; a map keeps its
    rows and columns. Where several points share a cell, it shows their range.

    Args:
        spec: of Vega-Lite, as Altair's ``to_dict`` returns it.
    """
    tables, seen = [], set()
    for unit in _units(spec, spec.get("datasets", {}), {}):
        found = _table(unit)
        # Several marks of a panel, such as lines and their points, show the same numbers.
        places = (unit["encoding"].get(name, {}).get("field") for name in ("x", "y"))
        if found is not None and (key := (found.title, *places)) not in seen:
            seen.add(key)
            tables.append(found)
    return tables


def _units(spec: Spec, datasets: Spec, above: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every mark of a chart, with what it inherits: data, encoding, title and facets."""
    data = spec.get("data", {})
    here = dict(above)
    if "name" in data:
        here["rows"] = datasets.get(data["name"], [])
    elif "values" in data:
        here["rows"] = data["values"]
    here["title"] = _text(spec.get("title")) or above.get("title", "")
    here["encoding"] = {**above.get("encoding", {}), **spec.get("encoding", {})}
    facet = spec.get("facet", {})
    facets = [facet] if "field" in facet else list(facet.values())
    here["facets"] = [*above.get("facets", []), *(each["field"] for each in facets)]
    for name in _CHILDREN:
        for child in spec.get(name, ()):
            yield from _units(child, datasets, here)
    if "spec" in spec:
        yield from _units(spec["spec"], datasets, here)
    if "mark" in spec and not spec.get("name", "").startswith("labels"):
        mark = spec["mark"]
        yield {**here, "mark": mark if isinstance(mark, str) else mark["type"]}


def _table(unit: Mapping[str, Any]) -> ChartTable | None:
    encoding, rows = unit["encoding"], unit.get("rows", [])
    x, y, colour = (encoding.get(name, {}) for name in ("x", "y", "color"))
    if unit["mark"] not in _DRAWN or not rows or "field" not in x or "field" not in y:
        return None
    row, value, series = x, y, colour
    if unit["mark"] == "rect":
        row, value, series = y, colour, x
    elif y.get("type") in _NAMES:
        if x.get("type") in _NAMES:
            return None
        row, value, series = y, x, {}
    if not {row["field"], value.get("field", "")} <= rows[0].keys():
        return None
    by = series.get("field", "") if series.get("type") in (*_NAMES, None) else ""
    cells: dict[tuple, dict[str, list[Any]]] = {}
    for each in rows:
        key = (*(each.get(name) for name in unit["facets"]), each.get(row["field"]))
        column = str(each.get(by, "")) if by else _title(value)
        cells.setdefault(key, {}).setdefault(column, []).append(each.get(value["field"]))
    domain = series.get("scale", {}).get("domain") or series.get("sort")
    listed = list(map(str, domain)) if isinstance(domain, list) else []
    present = dict.fromkeys(name for found in cells.values() for name in found)
    # Columns in the order of the legend.
    order = [n for n in listed if n in present] + [n for n in present if n not in listed]
    keys = list(cells)
    if row.get("type") == "quantitative":
        keys = _thinned(sorted(keys))
    header = [*map(str.capitalize, unit["facets"]), _title(row), *order]
    body = [[*map(_shown, key), *(_range(cells[key].get(name, [])) for name in order)]
            for key in keys]  # fmt: skip
    return ChartTable(unit["title"], header, body)


def _thinned(keys: list[tuple]) -> list[tuple]:
    """At most a dozen of them, evenly spread, with the first and the last."""
    if len(keys) <= _ROWS:
        return keys
    return [keys[round(i * (len(keys) - 1) / (_ROWS - 1))] for i in range(_ROWS)]


def _title(channel: Mapping[str, Any]) -> str:
    return _text(channel.get("title")) or str(channel.get("field", "")).capitalize()


def _text(title: Any) -> str:
    if isinstance(title, Mapping):
        title = title.get("text", "")
    return " ".join(title) if isinstance(title, list) else str(title or "")


def _range(values: Sequence[Any]) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return ""
    if len(set(found)) == 1 or not all(isinstance(value, int | float) for value in found):
        return _shown(found[0])
    return f"{_shown(min(found))} to {_shown(max(found))}"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:.4g}"
