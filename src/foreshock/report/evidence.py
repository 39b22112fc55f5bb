"""What a log knows of the cause of one event of the loss; nothing of it older than an age limit.

Causes are hints. What happened at the same time, or shortly before, is said with its numbers; where nothing
did, the cause is not known, and that is said. A sudden rise is put down to the data of its step by a rule –
most of the rise in one step, with a gradient far above all of the fifty before – that holds for hardly any of
the spontaneous spikes of SpikeBench (``python -m benchmarks.spikebench.definitions``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain.layers import layer_name, layer_types
from foreshock.report.words import number
from foreshock.representation import short_line
from foreshock.runlog.numbers import as_number
from foreshock.runlog.values import numbers
from foreshock.spikes import ANNOUNCING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from foreshock.runlog import Run
    from foreshock.spikes import LossEvent

OLDEST = 200
"""Steps before an event from which a reading is no evidence for it; the horizon, where the log has one."""

BATCH, RATE, GRADIENT, DATA = "batch changed", "learning rate rose", "gradient not finite", "jump in one step"
DECAY, CURVATURE, NOISE, UNKNOWN = "v decays", "curvature rises", "noise past the edge", "not known"

_JUST_BEFORE = 10  # steps in which a change of the batch may still act through momentum
_OTHER_SIZE = 2.0  # times the usual batch size, or one over it
_ROSE = 1.2  # learning rate at the event over the lowest one before it
_ONE_STEP = 0.7  # share of a rise that came in one step
_JUMP = 3.0  # gradient of that step over the highest of the steps before: what builds up shows there
_NEAR = 5  # steps before an onset in which the rise may have begun: a noisy loss is judged by a mean of five
_USUAL, _FEWEST = 50, 10  # steps that set what is usual, at most and at least


@dataclass(frozen=True)
class Cause:
    """A hint at what caused an event.

    Attributes:
        label: In a few words: one of this module's constants.
        words: In a sentence without a full stop, with its numbers.
    """

    label: str
    words: str


@dataclass(frozen=True)
class Evidence:
    """What was known before one event, none of it older than the limit.

    Attributes:
        ratio: Last stability ratio before the event, or where batches differ the typical mean-square ratio;
            NaN if there was none.
        measured: Step at which `ratio` was measured; None if there was none.
        noisy: Whether `ratio` is the typical mean-square ratio.
        module: Where the unstable direction mostly was, with the module's type; empty if unknown.
        share: Share of that module in it; NaN if unknown.
        causes: Hints at the cause, the strongest first; empty if it is not known.
        probed: Whether there was a reading of the curvature.
    """

    ratio: float = math.nan
    measured: int | None = None
    noisy: bool = False
    module: str = ""
    share: float = math.nan
    causes: tuple[Cause, ...] = ()
    probed: bool = False

    @property
    def cause(self) -> str:
        """The label of the strongest hint; ``not known`` without one."""
        return self.causes[0].label if self.causes else UNKNOWN


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
        self._rows = run.records.get("step", [])
        self._steps = run.steps("step")
        self._losses, self._norms, self._rates, self._sizes = (
            numbers(run, "step", name) for name in ("loss", "gradient_norm", "learning_rate", "batch_size")
        )
        typical = numbers(run, "forecast", "typical_mean_square_ratio")
        self._differ = bool(run.records.get("noise")) or bool(np.isfinite(typical).any())
        self._made, self._probed = run.steps("forecast"), run.steps("curvature")

    def of(self, event: LossEvent) -> Evidence:
        """Return what was known before an event.

        Args:
            event: What happened to the loss.
        """
        onset = event.onset
        ratio, measured, noisy = self._ratio(onset)
        module, share = self._module(onset)
        found = (
            self._gradient(event),
            self._batch(onset),
            self._data(event),
            self._rate(onset),
            self._instability(onset),
        )
        causes = tuple(cause for cause in found if cause is not None)
        if event.first_non_finite == onset:
            # Nothing of the loss grew: whatever was near the edge, it did not do this.
            causes = tuple(cause for cause in causes if cause.label in (GRADIENT, BATCH))
        probed = self._last("curvature", self._probed, event.peak, "stability_ratio") is not None
        return Evidence(ratio, measured, noisy, module, share, causes, probed)

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

    def _below_the_edge(self, onset: int) -> Mapping[str, Any] | None:
        """Return the last forecast with a hint before the ratio passed one, else the last one with a hint.

        Past the edge the instability itself moves the gradient and v, and what a hint says is its own doing.
        """
        end = int(np.searchsorted(self._made, onset, side="right"))
        for row in reversed(self._records.get("forecast", [])[:end]):
            if onset - row["step"] > self._limit:
                break
            if row.get("cause_hint") and as_number(row.get("stability_ratio")) < 1:
                found: dict[str, Any] = row
                return found
        return self._last("forecast", self._made, onset, "cause_hint")

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

    def _gradient(self, event: LossEvent) -> Cause | None:
        """A gradient that was not finite while the loss still was: the weights are lost in that very step."""
        if event.first_non_finite is None:
            return None
        near = (self._steps < event.first_non_finite) & (self._steps >= event.onset - _JUST_BEFORE)
        for i in np.flatnonzero(near & np.isfinite(self._losses)).tolist():
            norm = self._rows[i].get("gradient_norm")  # null is one that was not measured
            if isinstance(norm, float) and not math.isfinite(norm):
                step = f"{self._steps[i]:,}"
                return Cause(GRADIENT, f"the gradient was not finite at step {step}, when the loss still was")
        return None

    def _batch(self, onset: int) -> Cause | None:
        for row in self._records.get("event", []):
            name = short_line(str(row.get("name") or ""))
            if name.startswith("batch changed") and 0 <= onset - row["step"] <= _JUST_BEFORE:
                message = short_line(str(row.get("message") or "")) or name
                return Cause(BATCH, f"the batch changed at step {row['step']:,}: {message}")
        at = int(np.searchsorted(self._steps, onset, side="right"))
        usual = self._sizes[max(at - 2 * _USUAL, 0) : at]
        if not np.isfinite(usual).any():
            return None
        middle = float(np.nanmedian(usual))
        for i in reversed(range(max(at - 1 - _JUST_BEFORE, 0), at)):
            size = self._sizes[i]
            if 0 < size <= middle / _OTHER_SIZE or size >= middle * _OTHER_SIZE > 0:
                step = int(self._steps[i])
                return Cause(
                    BATCH, f"the batch of step {step:,} had {size:,.0f} examples instead of {middle:,.0f}"
                )
        return None

    def _data(self, event: LossEvent) -> Cause | None:
        """A rise in one step, with a gradient that jumped in that very step: nothing built up before."""
        if not self._differ or event.first_non_finite is not None:
            return None
        at, peak = (int(np.searchsorted(self._steps, step)) for step in (event.onset, event.peak))
        jump = sudden_step(self._losses, self._norms, onset=at, peak=peak, level=event.reference)
        if jump is None:
            return None
        times, step = jump[1], int(self._steps[jump[0]])
        return Cause(
            DATA,
            f"loss and gradient jumped within step {step:,}, the gradient to {number(times)} × the "
            "highest of the 50 steps before, and nothing had built up: it may be the data of that step",
        )

    def _rate(self, onset: int) -> Cause | None:
        at = int(np.searchsorted(self._steps, onset, side="right"))
        from_step = int(np.searchsorted(self._steps, onset - self._limit))
        rates = self._rates[from_step:at]
        known = np.flatnonzero(np.isfinite(rates) & (rates > 0))
        if not known.size:
            return None
        lowest, last = known[int(np.argmin(rates[known]))], known[-1]
        if rates[last] < _ROSE * rates[lowest]:
            return None
        passed = int(self._steps[from_step + last] - self._steps[from_step + lowest])
        words = f"{number(rates[lowest])} to {number(rates[last])} in the {passed:,} steps before"
        return Cause(RATE, f"the learning rate rose from {words}")

    def _instability(self, onset: int) -> Cause | None:
        row = self._last("forecast", self._made, onset, "state")
        if row is None or row.get("state") not in ANNOUNCING:
            return None
        typical, lag = as_number(row.get("typical_mean_square_ratio")), as_number(row.get("lag"))
        if math.isfinite(typical):
            known = f", while v was {number(lag)} × above g²" if math.isfinite(lag) else ""
            return Cause(NOISE, f"the noise of batches was past the edge, {number(typical)}{known}")
        hinted = self._below_the_edge(onset)
        if hinted is None:
            return None
        hint, step = short_line(str(hinted["cause_hint"])), hinted["step"]
        label = hinted_cause(hint)
        if label == UNKNOWN:
            return None
        rose = hint if "drives" in hint else f"the stability ratio rose {hint}"
        return Cause(label, f"{rose} (step {step:,})")


def hinted_cause(hint: str) -> str:
    """Return the label of what a forecast's hint says: `DECAY`, `CURVATURE` or `UNKNOWN`.

    Args:
        hint: Its `cause_hint`.
    """
    if not (hint.startswith(("no faster", "the", "v ")) or "as fast as" in hint):
        return UNKNOWN
    decays = hint.startswith("no faster than v decays") or "the preconditioner drives" in hint
    return DECAY if decays else CURVATURE


def sudden_step(
    losses: NDArray[np.float64], norms: NDArray[np.float64], *, onset: int, peak: int, level: float
) -> tuple[int, float] | None:
    """Return the index at which a loss rose at once, if its gradient jumped there as it never had before.

    Args:
        losses: Losses of consecutive steps, shape (n,).
        norms: Norms of their gradients, shape (n,).
        onset: Index of the first high loss.
        peak: Index of the highest one.
        level: Level of the loss before.

    Returns:
        The index, and the gradient there over the highest of the 50 steps before; None if the rise built up.

    Example:
        >>> losses, norms = np.ones(80), np.ones(80)
        >>> losses[60:62], norms[60] = (400.0, 3.0), 90.0
        >>> sudden_step(losses, norms, onset=60, peak=60, level=1.0)
        (60, 90.0)
    """
    first = max(onset - _NEAR, 1)
    steps = np.diff(losses[first - 1 : peak + 1])
    rise = float(np.max(losses[first : peak + 1], initial=-math.inf)) - level
    if not steps.size or not np.isfinite(steps).all() or not steps.max() >= _ONE_STEP * rise:
        return None
    at = first + int(np.argmax(steps))
    before = norms[max(at - _USUAL, 0) : at]
    if before.size < _FEWEST or not np.isfinite(before).all():
        return None
    highest = float(before.max())
    return (at, float(norms[at] / highest)) if norms[at] >= _JUMP * highest > 0 else None
