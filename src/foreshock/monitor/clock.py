"""Which step of the run is observed: counted by the user, by the optimizer's own updates, or by calls."""

from __future__ import annotations

from typing import Any


class StepClock:
    """Number the steps of a run.

    A loop that observes every tenth step makes ten updates from one call to the next. The optimizer counts
    its updates, so that this shows at the second call, and steps are numbered by updates then.

    Attributes:
        step: The present step; −1 before the first.
        calls: Index of the present call, from 0; −1 before the first.
        stride: Updates from one call to the next.

    Example:
        >>> clock = StepClock()
        >>> clock.next(None), clock.compare(1)
        (0, '')
        >>> clock.next(None), clock.compare(11)[:34], clock.step
        (1, 'observe is called every 10 updates', 10)
        >>> clock.next(None)
        20
    """

    def __init__(self) -> None:
        self.step = self.calls = -1
        self.stride = 1
        self._given = False
        self._counted: tuple[int, int] | None = None  # call and update number of the last comparison

    def next(self, step: int | None) -> int:
        """Return the number of the step that is observed now.

        Args:
            step: The user's own number; None to count.

        Raises:
            ValueError: If it does not increase.
        """
        number = self.step + self.stride if step is None else int(step)
        if number <= self.step or number < 0:
            raise ValueError(
                f"observe was given step={step!r} after step {self.step}; steps must increase: pass the "
                "number of updates so far, or None to let the monitor count"
            )
        self._given = step is not None
        self.step = number
        self.calls += 1
        return number

    def compare(self, updates: int | None) -> str:
        """Compare calls with the optimizer's updates; return what is odd about them in words, else "".

        Args:
            updates: Number t of the update about to be taken, if it was just read.
        """
        # Only at the start: later on layers are frozen, added, or left without a gradient now and then.
        if updates is None or self.calls > _COMPARED:
            return ""
        before, self._counted = self._counted, (self.calls, updates)
        if before is None or self._given or self.calls == before[0]:
            return ""
        calls, made = self.calls - before[0], updates - before[1]
        if made <= calls or made % calls or made // calls == self.stride:
            return ""
        self.stride = made // calls
        self.step += made - calls
        return (
            f"observe is called every {self.stride} updates of the optimizer: steps are counted by updates, "
            "and what happens between two calls is not seen. Call it at each step for all signals; it reads "
            "nothing back in between"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {"step": self.step, "calls": self.calls, "stride": self.stride}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.step, self.calls, self.stride = state["step"], state["calls"], state["stride"]
        self._counted = None


_COMPARED = 10
"""Index of the last call at which calls are compared with updates."""
