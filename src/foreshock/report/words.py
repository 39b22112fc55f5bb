"""Numbers and counts in words, the same in all that a report says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from foreshock.words import count, listed, number, percent

if TYPE_CHECKING:
    from foreshock.spikes import LossEvent

__all__ = ["SMALL", "ahead", "announced", "count", "height", "listed", "number", "percent"]

SMALL = 1.2
"""Height below which a spike is called small: it passes by itself, and is seen in smooth losses only."""


def announced(lead: int | None) -> str:
    """Return how early an event of the loss was announced.

    Args:
        lead: Steps from the announcement to its first step; None if there was none.

    Example:
        >>> announced(70), announced(0), announced(None)
        ('announced 70 steps ahead', 'announced at its onset', 'not announced')
    """
    return "not announced" if lead is None else f"announced {ahead(lead)}"


def ahead(lead: int) -> str:
    """Return how many steps before its first step an event was announced.

    Args:
        lead: So many.

    Example:
        >>> ahead(70), ahead(0)
        ('70 steps ahead', 'at its onset')
    """
    return f"{count(lead, 'step')} ahead" if lead else "at its onset"


def height(event: LossEvent) -> str:
    """Return how high an event went: as a multiple of its level, or where that is not positive as a rise.

    Args:
        event: What happened to the loss.

    Example:
        >>> from foreshock.spikes import detect_events
        >>> [event] = detect_events(range(340), [-2.0] * 300 + [5.0] * 3 + [-2.0] * 37)
        >>> height(event)
        '+7'
    """
    if event.first_non_finite is not None or not math.isfinite(event.rise):
        return "not finite"
    high = event.height
    if not math.isfinite(high):
        return f"+{number(event.rise)}"
    if high < SMALL:
        return f"{high:.2f}×"
    return f"{high:.1f}×" if high < 10 else f"{number(round(high))}×"
