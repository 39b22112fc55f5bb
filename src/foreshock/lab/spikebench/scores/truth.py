"""What is asked of an alarm at each step of a trace: does a spike start within the next 50 steps?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.spikes import ground_truth, judged
from foreshock.lab.spikebench.trace import Trace
from foreshock.spikes import SpikeEvent

HORIZON = 50


@dataclass(frozen=True)
class Truth:
    """The spikes of a trace and the steps at which alarms are judged.

    Attributes:
        trace: The trace.
        spikes: Its spikes by class.
        judged: Steps at which a spike could be detected, of shape (n,).
        outside: Whether each lies outside the spikes above 3×.
        soon: Whether such a spike starts within the next 50 steps.
        asked: Whether `soon` can be asked there: outside spikes, and not so close to the end of the run
            that the next 50 steps are unknown.
    """

    trace: Trace
    spikes: Mapping[str, list[SpikeEvent]]
    judged: NDArray[np.int64]
    outside: NDArray[np.bool_]
    soon: NDArray[np.bool_]
    asked: NDArray[np.bool_]

    @property
    def control(self) -> bool:
        """Whether the run is a control."""
        return bool(self.trace.meta["role"] == "control")


def truth_of(trace: Trace) -> Truth:
    """Return the truth of a trace."""
    steps, spikes = judged(trace), ground_truth(trace)
    outside = np.ones(steps.size, dtype=bool)
    soon = np.zeros(steps.size, dtype=bool)
    for spike in spikes["3x"]:
        outside &= ~((steps >= spike.onset) & (steps <= spike.end))
        soon |= (steps < spike.onset) & (steps >= spike.onset - HORIZON)
    last = steps[-1] if steps.size else 0
    return Truth(trace, spikes, steps, outside, soon, outside & (soon | (steps + HORIZON <= last)))
