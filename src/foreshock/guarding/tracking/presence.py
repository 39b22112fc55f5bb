"""Whether other coordinates have a gradient than before: for good, and not just at single steps."""

from __future__ import annotations

from collections.abc import Sequence

FOR_GOOD = 10
"""Steps running on which a number must be the same to become the usual one."""


class Presence:
    """Notice by their number when parameters were frozen, or are trained again.

    A parameter that lacks a gradient now and then (an expert that no token was sent to) must not begin a new
    count each time, so that another number counts only once it was the same at ten steps running. By then
    the mean of ‖g‖² over 30 steps has gone a third of its way, and the lag is off by a factor of 1.5 at most.
    Of numbers that change all the time none becomes the usual one. It is a number and not the coordinates
    themselves because that can be summed over processes: all of them must begin anew at the same step.

    Example:
        >>> presence = Presence()
        >>> [presence.changed(count) for count in (9, 9, 5, 9, *[5] * 10, 5)].index(True)
        13
    """

    def __init__(self) -> None:
        self._usual: float | None = None
        self._other, self._steps = 0.0, 0

    def changed(self, count: float) -> bool:
        """Take one step into account, and return whether its number of coordinates is the new usual one.

        Args:
            count: How many have a gradient.
        """
        if self._usual is None:
            self._usual = count
        if count == self._usual:
            self._steps = 0
            return False
        self._steps = self._steps + 1 if count == self._other else 1
        self._other = count
        if self._steps < FOR_GOOD:
            return False
        self._usual, self._steps = count, 0
        return True

    def state_dict(self) -> tuple[float, ...]:
        """Return what a resumed run needs; nothing before the first step."""
        return () if self._usual is None else (self._usual, self._other, self._steps)

    def load_state_dict(self, state: Sequence[float]) -> None:
        """Continue from `state_dict()`."""
        self._usual, self._other, self._steps = None, 0.0, 0
        if state:
            usual, other, steps = state
            self._usual, self._other, self._steps = float(usual), float(other), int(steps)
