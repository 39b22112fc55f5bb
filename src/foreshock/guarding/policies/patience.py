"""When to stand aside: where v has to be raised again and again, raising v is not what helps.

A learning rate that is far too high from the first step needs more than what v forgot: a guard would go on
raising v at most of the steps and save nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

WINDOW = 100
MOST = 50
ASIDE = 200


class Patience:
    """Follow on which steps v was raised, and say when to stop.

    Example:
        >>> patience = Patience()
        >>> [patience.ends(step, raises=True) for step in range(51)].index(True)
        50
        >>> patience.aside(50), patience.aside(249), patience.aside(250)
        (True, True, False)
    """

    def __init__(self) -> None:
        self._raised: deque[int] = deque()
        self._until = 0

    def aside(self, step: int) -> bool:
        """Return whether to stand aside at a step.

        Args:
            step: Its number.
        """
        return self._until - ASIDE <= step < self._until

    def ends(self, step: int, *, raises: bool) -> bool:
        """Take a step into account, and return whether to stand aside for the 200 steps from this one on.

        Args:
            step: Its number.
            raises: Whether v is to be raised.
        """
        if self._raised and self._raised[-1] >= step:
            self._raised.clear()  # those were the steps of another run
        while self._raised and self._raised[0] <= step - WINDOW:
            self._raised.popleft()
        if raises:
            self._raised.append(step)
        if len(self._raised) <= MOST:
            return False
        self._raised.clear()
        self._until = step + ASIDE
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {"raised": list(self._raised), "until": self._until}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._raised = deque(state["raised"])
        self._until = int(state["until"])
