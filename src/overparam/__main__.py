"""The entry of the command `overparam`, which needs the packages of the lab."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line, or say what it lacks; returns the exit status."""
    try:
        from overparam.lab import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("overparam"):
            raise
        sys.stderr.write(
            f"overparam: the command needs {error.name}, which is not installed; "
            'install the lab: pip install "overparam[lab]"\n'
        )
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
