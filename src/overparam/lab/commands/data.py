"""`overparam data`: list the data sets, fetch and verify them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from overparam import data
from overparam.lab.commands.options import NO_DEFAULT
from overparam.lab.terminal import say, show_table


@dataclass(frozen=True)
class DataCommand:
    """List the data sets, download them, or check their files.

    Examples:
        overparam data
        overparam data fetch ethanol
        overparam data verify
    """

    action: Annotated[Literal["list", "fetch", "verify"], tyro.conf.Positional] = "list"
    """list: show where each data set is. fetch: download to the cache. verify: check the files."""
    names: Annotated[tuple[str, ...], tyro.conf.Positional, NO_DEFAULT] = ()
    """Data sets; all of them if none is named."""
    force: Annotated[bool, NO_DEFAULT] = False
    """With fetch: download again, for example to replace a broken file in the cache."""

    def run(self, console: Console) -> int:
        """Carry out `overparam data`; returns the exit status."""
        if self.action == "list":
            _list(self.names, console)
            return 0
        failed = False
        for name in self.names or data.names():
            try:
                if self.action == "fetch":
                    path = data.fetch(name, force=self.force)
                    outcome = f"{path}" if path else "embedded, nothing to fetch"
                else:
                    status = data.verify(name)
                    outcome = f"verified, {status.path or status.where}"
            except data.DataError as error:
                failed, outcome = True, str(error)
            say(console, f"{name}: {outcome}")
        return 2 if failed else 0


def _list(names: tuple[str, ...], console: Console) -> None:
    known = {status.name: status for status in data.status()}
    for name in names:
        if name not in known:
            data.verify(name)  # raises, with the nearest known name
    shown = [status for status in known.values() if not names or status.name in names]
    table = Table("name", "examples", "features", "outputs", "checked", "where")
    for column in table.columns[1:4]:
        column.justify = "right"
    for status in shown:
        checked = {True: "yes", False: f"BROKEN: {status.problem}", None: "-"}[status.verified]
        sizes = (f"{status.rows:,}", str(status.features), str(status.outputs))
        table.add_row(status.name, *sizes, checked, f"{status.path or status.where}")
    show_table(console, table)
    for status in shown:
        remedy = f". Not here: {status.problem}" if status.where == "not here" else ""
        say(console, f"{status.name}: {status.title}. {status.licence}{remedy}")
