"""How the options of the commands are shown: the settings of a study in groups."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from overparam.lab.study import Study

NO_DEFAULT = tyro.conf.arg(help_behavior_hint="")
"""Leaves the default out of the help of an option: it is nothing, or off."""

GROUPS = {
    "problem": ("data", "power"),
    "comparison": ("methods", "seeds", "iterations"),
    "learning rate": (
        "lowest_rate",
        "highest_rate",
        "rates_per_decade",
        "more_rates",
        "warm_up",
        "schedule",
    ),
    "initialization": ("init", "init_std", "width"),
    "computing": ("dtype", "device", "points", "runs_per_job"),
}
"""The settings of a study by the heading under which the help lists them."""

REGISTRY = ConstructorRegistry()
"""Tells tyro how to read a study."""


def _settings_help() -> dict[str, str]:
    """What the docstring of a study says about each of its settings."""
    listed = (Study.__doc__ or "").split("Attributes:\n")[1]
    entries = re.split(r"^ {8}(?=\w+: )", listed, flags=re.MULTILINE)[1:]
    helps = {}
    for entry in entries:
        name, text = entry.split(": ", 1)
        text = " ".join(text.split())
        helps[name] = text[0].upper() + text[1:]
    return helps


def _group(title: str, names: tuple[str, ...], study: Study) -> StructFieldSpec:
    hints, helps = get_type_hints(Study), _settings_help()
    fields: list[Any] = []
    for name in names:
        default = getattr(study, name)
        hint = None if default != () else ""
        argument = tyro.conf.arg(help=helps[name], help_behavior_hint=hint)
        annotated = Annotated[hints[name], argument]
        fields.append((name, annotated, dataclasses.field(default=default)))
    group = dataclasses.make_dataclass("Settings", fields, frozen=True, namespace={"__doc__": ""})
    return StructFieldSpec(name=title, type=group, default=group())


@REGISTRY.struct_rule
def _study_in_groups(info: StructTypeInfo) -> StructConstructorSpec | None:
    if info.type is not Study:
        return None
    study = info.default if isinstance(info.default, Study) else Study()

    def instantiate(**groups: Any) -> Study:
        settings: dict[str, Any] = {}
        for group in groups.values():
            settings |= vars(group)
        return Study(**settings)

    fields = tuple(_group(title, names, study) for title, names in GROUPS.items())
    return StructConstructorSpec(instantiate=instantiate, fields=fields)
