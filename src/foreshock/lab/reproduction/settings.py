"""Settings of an experiment, changed by ``key=value`` on the command line."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

Config = TypeVar("Config")


def with_settings(config: Config, assignments: Sequence[str]) -> Config:
    """Return a configuration with some of its fields replaced.

    Args:
        config: A frozen dataclass of plain values.
        assignments: Texts such as ``steps=500``; lists are written ``0.9,0.99``, nothing ``none``.

    Raises:
        ValueError: If a text is no assignment, there is no such field, or the value is impossible.

    Example:
        >>> from foreshock.lab.reproduction.experiments.quadratic import QuadraticConfig
        >>> with_settings(QuadraticConfig(), ["steps=500"]).steps
        500
    """
    changes = dict(_parse(config, text) for text in assignments)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _parse(config: Any, text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    types_by_name = typing.get_type_hints(type(config))
    if not separator:
        raise ValueError(f"{text!r} is no assignment; write key=value, such as {next(iter(types_by_name))}=…")
    if key not in types_by_name:
        raise ValueError(f"There is no setting {key!r}; there are {', '.join(types_by_name)}.")
    try:
        return key, _convert(value, types_by_name[key])
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{key} is {value!r}; it must be {_name(types_by_name[key])}.") from error


def _convert(value: str, wanted: Any) -> Any:
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        if value.lower() == "none" and type(None) in typing.get_args(wanted):
            return None
        return _convert(value, next(part for part in typing.get_args(wanted) if part is not type(None)))
    if typing.get_origin(wanted) is tuple:
        item = typing.get_args(wanted)[0]
        return tuple(_convert(part.strip(), item) for part in value.strip("()[]").split(",") if part.strip())
    if wanted is bool:
        return (
            {"true": True, "false": False}[value.lower()] if value.lower() in ("true", "false") else _refuse()
        )
    if wanted in (int, float):
        number = ast.literal_eval(value)
        if wanted is int and not (isinstance(number, int) and not isinstance(number, bool)):
            _refuse()
        return wanted(number)
    return value


def _refuse() -> typing.NoReturn:
    raise ValueError


def _name(wanted: Any) -> str:
    if typing.get_origin(wanted) is tuple:
        return f"a list of {_name(typing.get_args(wanted)[0])} with commas between"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    parts = typing.get_args(wanted)
    return " or ".join(_name(part) for part in parts) if parts else names.get(wanted, "none")
