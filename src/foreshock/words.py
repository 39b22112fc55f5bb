"""Numbers, counts and steps in words, the same in all that Foreshock says."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float) -> str:
    """Return a number of three significant digits, as people write it.

    Args:
        value: Any float.

    Example:
        >>> number(1234.5), number(0.04567), number(2e-9), number(38.0)
        ('1,234', '0.0457', '2e-9', '38')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def count(n: int, one: str, many: str | None = None) -> str:
    """Return how many there are of something: ``1 spike``, ``2 spikes``.

    Args:
        n: How many.
        one: What, of one.
        many: What, of any other number; by default with an s.
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """Return a share as people write it.

    Args:
        share: From 0 to 1, NaN if unknown.

    Example:
        >>> percent(0.123), percent(0.0004), percent(0.9999), percent(1.0), percent(float("nan"))
        ('12 %', 'under 1 %', 'over 99 %', '100 %', 'unknown')
    """
    if math.isnan(share):
        return "unknown"
    if 0 < share < 0.01:
        return "under 1 %"
    return "over 99 %" if 0.99 < share < 1 else f"{share:.0%}".replace("%", " %")


def first_few(names: Sequence[object], *, most: int = 8) -> str:
    """Return things in a row, of many the first ones: ``0, 1, 2 …``.

    Args:
        names: What they are called.
        most: So many are named.

    Example:
        >>> first_few([3, 5], most=2), first_few(["lr", "eps", "beta2"], most=2)
        ('3, 5', 'lr, eps …')
    """
    return ", ".join(map(str, names[:most])) + (" …" if len(names) > most else "")


def listed(steps: list[int], *, most: int = 5) -> str:
    """Return steps as a list in a sentence: ``steps 3, 40 and 1,200``.

    Args:
        steps: At least one.
        most: So many are named, the others counted.
    """
    named = [f"{step:,}" for step in steps[:most]]
    if len(steps) == 1:
        return f"step {named[0]}"
    if len(steps) > most:
        return f"steps {', '.join(named)} and {len(steps) - most:,} more"
    return f"steps {', '.join(named[:-1])} and {named[-1]}"
