"""One value of a log as a number, whoever wrote it."""

from __future__ import annotations

import math
from typing import Any


def as_share(value: Any) -> float:
    """Return a value of a log that lies between 0 and 1, as a probability does; NaN for what does not.

    Args:
        value: Anything that JSON can hold.
    """
    number = as_number(value)
    return number if 0 <= number <= 1 else math.nan


def as_number(value: Any) -> float:
    """Return a value of a log as a float; NaN for what is none.

    Args:
        value: Anything that JSON can hold.
    """
    if type(value) is float or (type(value) is int and value.bit_length() < 1024):
        return float(value)
    return math.nan
