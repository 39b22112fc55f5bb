"""What probes may cost: forward-backward passes a step, counted and not timed.

A count is the same on every machine and on every rank, so that a run can be repeated, and ranks agree without
asking each other.
"""

from __future__ import annotations

from typing import Any

OPENING = 50
"""Steps at the start of a run, whose measurements are paid over the steps that follow."""

_REPAYMENT = 0.2  # share of the budget that pays for the opening until it is paid


class PassBudget:
    r"""Passes that are earned with each step and spent by measurements.

    The first measurements cost the most (a cold start, the choice of a backend) and are needed at once. What
    they cost, C, is paid by a fifth of the budget b over the steps n that follow, so that after n steps

    .. math:: \text{spent} \le b\,n + \max(0,\; C - b\,n/5),

    which is at most b·n from n = 5C/b on.

    Args:
        passes_per_step: b, forward-backward passes a step, in [0, 1]; 0 allows nothing.

    Raises:
        ValueError: If it lies outside.

    Example:
        >>> budget = PassBudget(0.05)
        >>> budget.spend(30.0, opening=True)
        >>> budget.allows(4.0, step=80), budget.allows(4.0, step=105)
        (False, True)
    """

    def __init__(self, passes_per_step: float) -> None:
        if not 0 <= passes_per_step <= 1:
            raise ValueError(
                f"budget is {passes_per_step!r}; it is the number of forward-backward passes that probes may "
                "cost a step, in [0, 1]: 0.05 is one pass in twenty steps, 0 measures nothing. For more, "
                "probe at fixed steps with probe_every"
            )
        self.passes_per_step = passes_per_step
        self.spent = self._opening = 0.0
        self._opened_again = False
        self._first: int | None = None

    def begin(self, step: int) -> None:
        """Count steps from this one on; later calls change nothing.

        Args:
            step: Step number.
        """
        self._first = step if self._first is None else self._first

    def begin_again(self) -> None:
        """Pay the next measurement later, as those of the opening."""
        self._opened_again = True

    @property
    def in_opening_until(self) -> int:
        """The first step that is not of the opening."""
        return (self._first or 0) + OPENING

    @property
    def income(self) -> float:
        """Passes a step that are left while the opening is being paid."""
        return self.passes_per_step * (1 - _REPAYMENT)

    def allows(self, passes: float, *, step: int) -> bool:
        """Return whether a measurement can be paid for at a step.

        Args:
            passes: What it will cost.
            step: Step number.
        """
        earned = self.passes_per_step * (step - (self._first or 0))
        owed = max(0.0, self._opening - _REPAYMENT * earned)
        return self.passes_per_step > 0 and self.spent + passes <= earned + owed

    def spend(self, passes: float, *, opening: bool = False) -> None:
        """Account for a measurement.

        Args:
            passes: What it cost.
            opening: Whether it is of the opening.
        """
        self.spent += passes
        self._opening += passes if opening or self._opened_again else 0.0
        self._opened_again = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed budget needs, as plain values."""
        return {"spent": self.spent, "opening": self._opening, "first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.spent, self._opening, self._first = state["spent"], state["opening"], state["first"]
