"""How the options of the commands are shown: the settings of a study in groups."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, Any, get_type_hints

import docstring_parser
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

CORES = os.cpu_count() or 1

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


def _group(title: str, names: tuple[str, ...], study: Study) -> StructFieldSpec:
    described = docstring_parser.parse(Study.__doc__ or "").params
    texts = {each.arg_name: " ".join((each.description or "").split()) for each in described}
    hints = get_type_hints(Study)
    fields: list[Any] = []
    for name in names:
        default, text = getattr(study, name), texts[name]
        hint = None if default != () else ""
        argument = tyro.conf.arg(help=text[0].upper() + text[1:], help_behavior_hint=hint)
        fields.append((name, Annotated[hints[name], argument], dataclasses.field(default=default)))
    group = dataclasses.make_dataclass("Settings", fields, frozen=True, namespace={"__doc__": ""})
    return StructFieldSpec(name=title, type=group, default=group())


@REGISTRY.struct_rule
def _study_in_groups(info: StructTypeInfo) -> StructConstructorSpec | None:
    if info.type is not Study:
        return None
    study = info.default if isinstance(info.default, Study) else Study()

    def instantiate(**groups: Any) -> Study:
        return Study(**{k: value for group in groups.values() for k, value in vars(group).items()})

    fields = tuple(_group(title, names, study) for title, names in GROUPS.items())
    return StructConstructorSpec(instantiate=instantiate, fields=fields)
