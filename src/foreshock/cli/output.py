"""What commands print for scripts: results as JSON of one form, and an exit status by what happened."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreshock._version import __version__
from foreshock.cli.console import json_text

if TYPE_CHECKING:
    from foreshock.report.severity import Worst

SCHEMA = 1
"""Version of the form, raised when a field changes its meaning, its type or its name; new ones may come."""

STATUSES: Mapping[str, int] = {"alarm": 3, "spike": 4, "divergence": 5}
"""Exit status of each level: 1 and 2 say that a command could not do its work."""


class FailOn(StrEnum):
    """From which level on a command fails."""

    ALARM = "alarm"
    SPIKE = "spike"
    DIVERGENCE = "divergence"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, see the reference page JSON output.")]
FailOnOption = Annotated[
    FailOn | None,
    typer.Option(
        "--fail-on",
        help="Exit with 3 for an alarm, 4 for a spike, 5 for a divergence, if it is this or worse.",
    ),
]


def print_result(command: str, result: Any) -> None:
    """Print the result of a command as JSON.

    Args:
        command: The command, without ``foreshock``.
        result: Records, and lists and mappings of them.
    """
    typer.echo(result_text(command, result))


def result_text(command: str, result: Any) -> str:
    """Return the result of a command as JSON.

    Args:
        command: The command, without ``foreshock``.
        result: Records, and lists and mappings of them.
    """
    envelope = {"schema": SCHEMA, "foreshock": __version__, "command": command}
    return json_text({**envelope, "result": as_json(result)})


def as_json(value: Any) -> Any:
    """Return a record as plain values: its fields, and those properties that are plain values themselves.

    Args:
        value: Records, mappings, sequences, strings and numbers.
    """
    from foreshock.explain.record import plain

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: as_json(getattr(value, name)) for name in json_names(type(value))}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return plain(value) if value is None or isinstance(value, str | int | float) else str(value)


def json_names(record: type) -> list[str]:
    """Return what is printed of a record: its fields, and its properties but those that are several values.

    Args:
        record: A dataclass.
    """
    names = [field.name for field in dataclasses.fields(record)]
    for name, member in inspect.getmembers(record, lambda one: isinstance(one, property)):
        if not name.startswith("_") and not str(inspect.signature(member.fget).return_annotation).startswith(
            ("tuple", "list", "Sequence")
        ):
            names.append(name)
    return names


def fail(worst: Worst, fail_on: FailOn | None) -> None:
    """End a command with the exit status of what happened, if it is bad enough.

    Args:
        worst: The worst that happened.
        fail_on: The level from which on it is; None for never.

    Raises:
        typer.Exit: If it is.
    """
    if fail_on is not None and worst != "none" and STATUSES[worst] >= STATUSES[fail_on]:
        raise typer.Exit(STATUSES[worst])


def worst_among(worsts: list[Worst]) -> Worst:
    """Return the worst of several.

    Args:
        worsts: Of each run what happened.
    """
    from foreshock.report.severity import LEVELS

    return max(worsts, key=LEVELS.index, default="none")
