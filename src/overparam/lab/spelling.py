"""Commands as they are typed, for messages and pages."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

DEFAULT_OUTPUT = Path("runs")


def command_line(command: str, *flags: str, **options: object) -> str:
    r"""A command of `overparam` that a shell reads as it was meant, whatever the names in it.

    Args:
        command: the subcommand.
        flags: flags without a value.
        options: values by option name; a value of None and the default output are left out.

    Example:
        >>> command_line("run", "--overwrite", name="a [1]", output=DEFAULT_OUTPUT)
        "overparam run --overwrite --name 'a [1]'"
        >>> command_line("run", name="-x", output=Path("~"))
        "overparam run --name=-x --output '~'"
    """
    words = ["overparam", command, *flags]
    for name, value in options.items():
        if value is None or (name == "output" and value == DEFAULT_OUTPUT):
            continue
        text, flag = str(value), f"--{name.replace('_', '-')}"
        # A value that begins with a dash would be read as an option.
        words += [f"{flag}={_quoted(text)}"] if text.startswith("-") else [flag, _quoted(text)]
    return " ".join(words)


def _quoted(word: str) -> str:
    r"""A word in quotes, if it needs them; bytes that cannot be shown as ``$'\xff'``."""
    if word.isprintable():
        return shlex.quote(word)
    shown = (
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    )
    return f"$'{''.join(shown)}'"
