"""Entry point of the command; says what to install where the command line's extra is missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from foreshock.cli.app import app
    except KeyboardInterrupt:  # while modules load; later typer ends with the same status
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f'the command line needs {error.name}: pip install "foreshock[cli]"')
    app(prog_name="foreshock")


if __name__ == "__main__":
    main()
