"""What was measured before one event of the loss; nothing of it older than an age limit.

Why the event happened is not said here: that is the matter of `foreshock.explain`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain.layers import layer_name, layer_types
from foreshock.representation import short_line
from foreshock.runlog.numbers import as_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from foreshock.runlog import Run
    from foreshock.spikes import LossEvent

OLDEST = 200
"""Steps before an event from which a reading is no evidence for it; the horizon, where the log has one."""


@dataclass(frozen=True)
class Evidence:
    """What was measured before one event, none of it older than the limit.

    Attributes:
        ratio: Last stability ratio before the event, or where batches differ the typical mean-square ratio;
            NaN if there was none.
        measured: Step at which `ratio` was measured; None if there was none.
        noisy: Whether `ratio` is the typical mean-square ratio.
        module: Where the unstable direction mostly was, with the module's type; empty if unknown.
        share: Share of that module in it; NaN if unknown.
        probed: Whether there was a reading of the curvature.
    """

    ratio: float = math.nan
    measured: int | None = None
    noisy: bool = False
    module: str = ""
    share: float = math.nan
    probed: bool = False


def age_limit(run: Run) -> int:
    """Return how old evidence may be, in steps: the horizon of the log, else 200.

    Args:
        run: A run as read from its log.
    """
    horizon = as_number(run.meta.get("horizon"))
    return int(horizon) if 1 <= horizon < 1e9 else OLDEST


class EvidenceReader:
    """Look up what a log knows about events of the loss.

    Args:
        run: A run as read from its log.
    """

    def __init__(self, run: Run) -> None:
        self._limit = age_limit(run)
        self._types = layer_types(run)
        self._records = run.records
        self._made, self._probed = run.steps("forecast"), run.steps("curvature")

    def of(self, event: LossEvent) -> Evidence:
        """Return what was measured before an event.

        Args:
            event: What happened to the loss.
        """
        ratio, measured, noisy = self._ratio(event.onset)
        module, share = self._module(event.onset)
        probed = self._last("curvature", self._probed, event.peak, "stability_ratio") is not None
        return Evidence(ratio, measured, noisy, module, share, probed)

    def _last(self, kind: str, steps: NDArray[np.int64], onset: int, name: str) -> Mapping[str, Any] | None:
        """Return the last record before an onset that has a field, if it is not too old."""
        end = int(np.searchsorted(steps, onset, side="right"))
        for row in reversed(self._records.get(kind, [])[:end]):
            if onset - row["step"] > self._limit:
                return None
            if row.get(name) and not (isinstance(row[name], float) and math.isnan(row[name])):
                found: dict[str, Any] = row
                return found
        return None

    def _ratio(self, onset: int) -> tuple[float, int | None, bool]:
        row = self._last("forecast", self._made, onset, "typical_mean_square_ratio")
        noisy = row is not None
        name = "typical_mean_square_ratio" if noisy else "stability_ratio"
        if row is None:
            row = self._last("curvature", self._probed, onset, name)
        if row is None:
            return math.nan, None, False
        measured = as_number(row.get("measured"))
        step = int(measured) if 0 <= measured <= row["step"] else row["step"]
        if onset - step > self._limit:
            return math.nan, None, False
        return as_number(row[name]), step, noisy

    def _module(self, onset: int) -> tuple[str, float]:
        row = self._last("curvature", self._probed, onset, "blocks")
        if row is None:
            return "", math.nan
        block = row["blocks"][0]
        return layer_name(short_line(str(block["name"])), self._types), as_number(block["share"])
