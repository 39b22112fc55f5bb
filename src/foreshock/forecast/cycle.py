"""Where in the cycle of a spike a run is, from what every step shows."""

from __future__ import annotations

import math
from typing import Any

from foreshock.dynamics import StageSignals, StageState, next_stage

_NAMES = ("stage", "candidate")


class Cycle:
    """Follow the five stages of `foreshock.dynamics.Stage` through a run.

    Example:
        >>> cycle = Cycle()
        >>> for _ in range(4):
        ...     cycle.see(loss=1.0, lag_ratio=0.01, decay_exponent=0.99, stability_ratio=0.7)
        >>> cycle.stage
        'preconditioner_decay'
    """

    def __init__(self) -> None:
        self._state = StageState()
        self._loss = math.nan
        self._told = False

    @property
    def stage(self) -> str:
        """The present stage; empty while no step had a decay exponent."""
        return self._state.stage.value if self._told else ""

    def see(self, *, loss: float, lag_ratio: float, decay_exponent: float, stability_ratio: float) -> None:
        """Take one step.

        Args:
            loss: Loss of the step.
            lag_ratio: Σg²/Σv̂.
            decay_exponent: log(Σv_t/Σv_{t−1})/log β₂; a step without it is passed over.
            stability_ratio: The last known ratio whose edge is one; NaN if there is none.
        """
        if math.isnan(decay_exponent):
            return
        growth = math.log(loss / self._loss) if 0 < loss < math.inf and self._loss > 0 else math.nan
        self._state = next_stage(
            self._state, StageSignals(lag_ratio, decay_exponent, stability_ratio, growth)
        )
        self._loss = loss if 0 < loss < math.inf else math.nan
        self._told = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        state = {name: str(value) if name in _NAMES else value for name, value in vars(self._state).items()}
        return {"state": state, "loss": self._loss, "told": self._told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._state = StageState(**state["state"])
        self._loss, self._told = float(state["loss"]), bool(state["told"])
