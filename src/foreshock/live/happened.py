"""What happened to the loss of a run that grows: found part by part, and when it was announced."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import numpy as np

from foreshock.spikes.detection import first_size
from foreshock.spikes.events import EventDefinition
from foreshock.spikes.scan import EventScan
from foreshock.spikes.scoring import announced_at, episode_gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreshock.live.curve import Curve
    from foreshock.spikes import LossEvent

_AT_ONCE = 2000  # steps: what waits for the run's lock waits some hundredths of a second
_FORECASTS = 64  # new ones after which it is worked out anew what was announced


class Happened:
    """The events of one loss, as far as it was looked at.

    Not safe for several threads: the run has a lock.
    """

    def __init__(self) -> None:
        self._scan: EventScan | None = None
        self._looked_at, self._last_step = 0, -1
        self._lead: tuple[object, int | None] = (None, None)

    def look(self, curve: Curve) -> tuple[bool, bool]:
        """Look at some losses that were not looked at yet.

        Args:
            curve: The step records, with the columns ``loss`` and ``measured``.

        Returns:
            Whether the events changed, and whether there are more losses to look at.
        """
        end = min(len(curve), self._looked_at + _AT_ONCE)
        if self._looked_at == end:
            return False, False
        if self._scan is None:
            self._scan = EventScan(EventDefinition(), first_size(curve.column("loss")))
        before = self._scan.events, self._scan.going_on
        part = slice(self._looked_at, end)
        measured = curve.column("measured")[part].astype(bool)
        steps, losses = curve.steps[part][measured], curve.column("loss")[part][measured]
        new = steps > np.maximum.accumulate(np.append(self._last_step, steps))[:-1]
        self._scan.see_all(steps[new].astype(np.int64), losses[new])
        if new.any():
            self._last_step = int(steps[new][-1])
        self._looked_at = end
        return before != (self._scan.events, self._scan.going_on), end < len(curve)

    @property
    def over(self) -> Sequence[LossEvent]:
        """Events that are over, in order."""
        return () if self._scan is None else self._scan.events

    @property
    def going_on(self) -> LossEvent | None:
        """The event that goes on."""
        return None if self._scan is None else self._scan.going_on

    @property
    def events(self) -> list[LossEvent]:
        """All of them, the one that goes on last."""
        return [*self.over, *([] if self.going_on is None else [self.going_on])]

    def by_now(self) -> list[LossEvent]:
        """Return the events if the run ended now: what goes on may have diverged already."""
        return [] if self._scan is None else copy.deepcopy(self._scan).finish()

    def end_before(self, event: LossEvent) -> float:
        """Return the last step of the sudden event before another one; −∞ if there is none.

        Args:
            event: The other one.
        """
        ends = (one.end for one in self.events if one.kind != "climb" and one.onset < event.onset)
        return max(ends, default=-math.inf)

    def lead_of(self, event: LossEvent, forecasts: Curve) -> int | None:
        """Return how many steps before an event the alarm began that was on, as the report counts them.

        Args:
            event: One of the events.
            forecasts: The forecasts, with the column ``said``.

        Returns:
            Steps from that alarm to the first step of the event; None if it was not announced.
        """
        after = self.end_before(event)
        key = event.onset, after, len(forecasts) // _FORECASTS
        if key != self._lead[0]:
            steps = forecasts.steps
            began = announced_at(
                event.onset, steps, forecasts.column("said"), after=after, gap=episode_gap(steps)
            )
            self._lead = key, None if began is None else event.onset - int(began)
        return self._lead[1]

    def forget_announced(self) -> None:
        """Forget what was announced: the forecasts are others now."""
        self._lead = None, None
