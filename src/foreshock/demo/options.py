"""Checks of the settings of the demo and of the laboratory's tasks."""

from __future__ import annotations

from collections.abc import Collection


def check_choice(name: str, value: object, allowed: Collection[object]) -> None:
    """Raise unless an option is one of a few values.

    Args:
        name: Name of the option.
        value: What was passed.
        allowed: What is allowed.

    Raises:
        ValueError: If `value` is not among `allowed`.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")


def check_count(name: str, value: int, *, least: int = 1) -> None:
    """Raise unless an option is an integer that is large enough.

    Args:
        name: Name of the option.
        value: What was passed.
        least: Smallest value allowed.

    Raises:
        ValueError: If `value` is not an integer, or is below `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
