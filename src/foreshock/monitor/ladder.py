"""The ladder of recovery: which measure comes next, decided by step numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Rung = Literal["skip", "raise v", "lower rate", "rewind", "stop"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
GIVE_UP = "give up"
_LONG = 10  # windows within which measures are counted


class RecoveryFailedError(RuntimeError):
    """A run that its ladder of recovery could not bring back, and was told to stop."""


@dataclass(frozen=True)
class Ladder:
    """What to do about a spike or a loss that is not finite, from the mildest measure to the last.

    Each measure first puts the newest snapshot from before the trouble back; the batches since then are
    passed over. If trouble comes again within `window` steps, the next rung follows; after a calm window it
    begins anew.

    With a loss function it is found out before whether that can help: the present batch is tried with the
    weights of the snapshot. What is as bad with them on three batches in a row is not in the weights; then
    nothing is tried, the log says why, and training goes on as it is. Only where its weights are no longer
    finite, or with ``elsewhere="stop"``, ``stop`` follows.

    ============== ====================================================================================
    rung           what else it does
    ============== ====================================================================================
    ``skip``       nothing: other batches follow, unless every step sees the same data
    ``raise v``    multiplies the second moment by `raise_by`; it forgets that by itself. Left out without one
    ``lower rate`` multiplies the learning rate by `rate_factor` from here on, whatever a schedule sets; one
                   that was raised by more since the snapshot becomes what it was
    ``rewind``     goes one snapshot further back, and lowers the rate once more
    ``stop``       puts the snapshot back and raises `RecoveryFailedError` from `observe`
    ============== ====================================================================================

    Attributes:
        rungs: The rungs, in the order in which they are tried.
        at: ``"spike"`` acts once the loss has left its level, or is not finite; ``"alarm"`` also at an alarm.
        window: Steps, ≥ 1.
        most: Measures within ten windows, at most, ≥ 1; then recovery is given up, or stops the run if
            `rungs` has ``stop``.
        raise_by: Factor on v, > 1.
        rate_factor: Factor on the learning rate, in (0, 1).
        elsewhere: What follows where the trouble is not in the weights but in the data, the loss function or
            the size of batches: ``"go on"`` or ``"stop"``.

    Raises:
        ValueError: If an argument lies outside.

    Example:
        >>> climb = Climb(Ladder(window=100))
        >>> [climb.next_rung(step) for step in (50, 60, 90, 400)]
        ['skip', 'raise v', 'lower rate', 'skip']
    """

    rungs: tuple[Rung, ...] = RUNGS
    at: Literal["spike", "alarm"] = "spike"
    window: int = 100
    most: int = 6
    raise_by: float = 4.0
    rate_factor: float = 0.5
    elsewhere: Literal["go on", "stop"] = "go on"

    def __post_init__(self) -> None:
        """Refuse what is no ladder."""
        unknown = [rung for rung in self.rungs if rung not in RUNGS]
        if unknown or not self.rungs:
            raise ValueError(f"rungs is {self.rungs!r}; it has some of {', '.join(map(repr, RUNGS))}")
        if self.at not in ("spike", "alarm"):
            raise ValueError(f"at is {self.at!r}; it must be 'spike' or 'alarm'")
        if self.elsewhere not in ("go on", "stop"):
            raise ValueError(f"elsewhere is {self.elsewhere!r}; it must be 'go on' or 'stop'")
        if self.elsewhere == "stop" and "stop" not in self.rungs:
            raise ValueError(f"elsewhere is 'stop', and rungs, {self.rungs!r}, has no 'stop': add it")
        if not (self.window >= 1 and self.most >= 1):
            raise ValueError(f"window is {self.window!r} and most {self.most!r}; both must be 1 or more")
        if not self.raise_by > 1 or not 0 < self.rate_factor < 1:
            raise ValueError(
                f"raise_by is {self.raise_by!r} and rate_factor {self.rate_factor!r}; the first must lie "
                "above 1, the second between 0 and 1"
            )


class Climb:
    """Where a run stands on its ladder.

    Args:
        ladder: The ladder.

    Attributes:
        further: How many snapshots further back the present rung goes.
    """

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        self.further = 0
        self._place = -1
        self._acted: list[int] = []

    def next_rung(self, step: int, *, left_out: tuple[Rung, ...] = ()) -> str:
        """Return the rung for a trouble at a step, or that there is none left.

        Args:
            step: Step number.
            left_out: Rungs that can't be done.
        """
        rungs, window = self.ladder.rungs, self.ladder.window
        if not self._acted or step - self._acted[-1] > window:
            self._place, self.further = -1, 0
        lately = [one for one in self._acted if step - one <= _LONG * window]
        last: str = "stop" if "stop" in rungs else GIVE_UP
        if len(lately) >= self.ladder.most:
            return last
        self._acted = [*lately, step]
        following = [i for i in range(self._place + 1, len(rungs)) if rungs[i] not in left_out]
        if not following:
            return GIVE_UP
        self._place = following[0]
        self.further += rungs[self._place] == "rewind"
        return rungs[self._place]

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands, as plain values."""
        return {"place": self._place, "further": self.further, "acted": list(self._acted)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; on a shorter ladder from its last rung.

        Args:
            state: What `state_dict` returned.
        """
        self._place, self.further = min(state["place"], len(self.ladder.rungs) - 1), state["further"]
        self._acted = list(state["acted"])
