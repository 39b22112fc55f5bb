"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Jobs = Annotated[int, typer.Option(min=1, help="Processes, one thread each.")]
"""In how many processes a command trains."""
