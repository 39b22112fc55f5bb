"""The second moment as it would be without the guard: a scalar that is blind to our own raises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from foreshock.dynamics import LagWindow
from foreshock.guarding.tracking.presence import FOR_GOOD, Presence


class NaturalMoment:
    """Follow V = β₂V + (1 − β₂)‖g‖², and the same with the raises in it.

    The lag is that of V (`foreshock.dynamics.LagWindow`). With the true Σv it would be inflated by every
    raise, and arm the guard by its own doing.

    V is a sum over the coordinates that had a gradient. Where others have one from now on, it begins anew:
    what were frozen would count for as long as v remembers, and v seem to lag.

    Attributes:
        started: Whether `start` was called.

    Example:
        >>> natural = NaturalMoment()
        >>> for _ in range(100):
        ...     natural.update(0.5, beta2=0.9)
        >>> round(natural.lag, 6)
        1.0
        >>> natural.raised(4.0)
        >>> round(natural.decay_factor, 6)
        0.5
    """

    def __init__(self) -> None:
        self._natural = self._raised = 0.0
        self._forgotten = 1.0  # β₂ᵗ, of the bias correction.
        self._touched = False
        self._window, self._presence = LagWindow(), Presence()
        self.started = False

    @property
    def lag(self) -> float:
        """The lag at the last step; NaN before it is known."""
        return self._window.lag

    def is_outdated(self, coordinates: float) -> bool:
        """Take into account how many coordinates have a gradient; return whether to `start` with them.

        Args:
            coordinates: Their number, over all processes.
        """
        return self._presence.changed(coordinates) or not self.started

    def start(self, total: float, *, beta2: float, updates: int) -> None:
        """Begin, or begin anew, with an optimizer that has made some updates.

        Args:
            total: Σv over the coordinates that have a gradient, raises included: of others than before, the
                same share of it is taken for raises.
            beta2: β₂.
            updates: How many it made.
        """
        share = self._natural / self._raised if self._raised > 0 else 1.0
        self._natural, self._raised = total * share, total
        self._forgotten = beta2**updates
        # The gradients since the others left: of a single one, of a mini-batch, no mean can be had.
        self._window.begin_anew(kept=FOR_GOOD - 1)
        self.started = True

    def update(self, squared_gradient: float, *, beta2: float) -> None:
        """Take one step into account; one with a gradient that is not finite is passed over.

        Args:
            squared_gradient: ‖g‖².
            beta2: β₂ of this step.
        """
        if not math.isfinite(squared_gradient):
            return
        self._natural = beta2 * self._natural + (1 - beta2) * squared_gradient
        self._raised = beta2 * self._raised + (1 - beta2) * squared_gradient
        self._forgotten *= beta2
        corrected = self._natural / (1 - self._forgotten) if self._forgotten < 1 else math.nan
        self._window.update(second_moment=corrected, squared_gradient=squared_gradient)

    def raised(self, factor: float) -> None:
        """Take into account that Σv was multiplied.

        Args:
            factor: By how much, ≥ 1.
        """
        self._raised *= factor
        self._touched = True

    @property
    def decay_factor(self) -> float:
        """Factor on decoupled weight decay, min(1, √(V/Σv)): steps that are shorter decay less.

        Exactly one as long as nothing was raised, and again once raises are forgotten to one part in a
        thousand.
        """
        if not self._touched or not self._raised > 0:
            return 1.0
        factor = math.sqrt(self._natural / self._raised)
        return factor if factor < 0.999 else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {
            "natural": self._natural,
            "raised": self._raised,
            "forgotten": self._forgotten,
            "touched": self._touched,
            "started": self.started,
            "window": self._window.state_dict(),
            "presence": self._presence.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._natural, self._raised = float(state["natural"]), float(state["raised"])
        self._forgotten, self._touched = float(state["forgotten"]), bool(state["touched"])
        self._window.load_state_dict(state["window"])
        self._presence.load_state_dict(state.get("presence", ()))
        self.started = bool(state["started"])
