r"""Clip gradients that stick out of their own recent history, measured in the metric of the optimizer.

.. math:: q = \sqrt{g^\top D^{-1} g}

D contains the present gradient, so that coordinates that were never seen before don't count without
bound; and q is to ‖g‖ what the step is to the gradient: rescaling a layer's loss or weights doesn't move the
threshold. AdaGC (Wang et al. 2025, arXiv 2502.11034) and ZClip (Kumar et al. 2025, arXiv 2504.02507) clip by
running statistics of the Euclidean norm.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from foreshock.dynamics.signals import RunningMedian
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold
from foreshock.guarding.tracking import keep_recent

_WINDOW = 100
_FEWEST = 50  # sizes before any is an outlier
_IN_A_ROW = 3
_PRECONDITIONED: frozenset[Measure] = frozenset({"preconditioned gradient"})
_NORM: frozenset[Measure] = frozenset({"norm"})
_SLIGHTLY = 1.5  # a size up to this multiple of the usual one does not keep the next from coming alone
_ALONE = 5  # steps after an outlier within which another one is no coincidence

# Bad data may come in several batches. ‖g‖² over all of the last eight steps that only data make: a wall of
# the loss makes some hundreds at once. Of smaller ones the next shows whether the gradient turned, as that of
# an instability does: the cosine to the last one, then; of an instability that one is large as well. And the
# share of the first one's size from which others are of the same data, or below which the last one was none
# of them, and how many there are before they count as a new level.
_NO_WALL, _TURNED, _ALIKE, _BAD = 1e4, -0.6, 0.1, 10
# What comes more often is no accident, but a part of the data that has to be learned.
_MANY, _LONG = 15, 1000  # outliers, and within how many steps


@dataclass
class Outlier:
    """Scale a gradient down to a multiple of the usual size.

    Outliers don't enter their own history; but after three in a row it is no outlier but a new level, which
    is accepted: a changed task or data set must not be clipped for ever.

    Attributes:
        multiple: Sizes above this multiple of the usual one are outliers, > 1.
        clip_to: What an outlier is scaled down to, as a multiple of the usual size, > 0 and at most
            `multiple`; None for `multiple`.
        reference: The usual size: the ``"median"`` of the last 100 steps, or their ``"third largest"``, which
            only a size without precedent exceeds: three, because the history may begin with outliers.
        size: ``"preconditioned"``, q; or ``"norm"``, ‖g‖, which costs no pass over v.
        alone: Whether only a gradient that comes alone is an outlier: the one before was not clearly above
            the usual size (1.5 times), and none of the five before was an outlier. What grows or repeats is
            an instability, whose gradient is the restoring force, and which v has to see. Unless these are
            bad data: further ones of at least a tenth of the first one's size that have not turned against
            the gradient before, or where that was small again, or where the first one made ‖g‖² jump
            ten-thousandfold at once. Of ten such batches at most, the k-th scaled down to 1/k besides; and
            after 15 outliers in 1,000 steps none is one any more.
        repeats: Whether the last gradient was as large as an outlier, but is none because of `alone`.
        of_data: Whether the last outliers were so large at once that only data make them.
        heavy: Whether the last gradient was large, but such come too often to be outliers.

    Raises:
        ValueError: If an option is impossible.

    Example:
        >>> policy = Outlier()
        >>> for step in range(100):
        ...     seen = policy.decide(GuardSignals(step=step, updates=step + 1, preconditioned_gradient=1.0))
        >>> [decision] = policy.decide(GuardSignals(step=100, updates=101, preconditioned_gradient=900.0))
        >>> decision.remedy, round(decision.factor, 6)
        ('clip', 0.1)
    """

    multiple: float = 3.0
    clip_to: float | None = None
    reference: Literal["median", "third largest"] = "median"
    size: Literal["preconditioned", "norm"] = "preconditioned"
    alone: bool = False
    repeats: bool = field(default=False, init=False, repr=False, compare=False)
    of_data: bool = field(default=False, init=False, repr=False, compare=False)
    heavy: bool = field(default=False, init=False, repr=False, compare=False)
    name: ClassVar[str] = "outlier"
    scales_decay: ClassVar[bool] = False
    exact_above: ClassVar[float] = math.inf  # the secant is not used
    _sizes: RunningMedian = field(
        default_factory=lambda: RunningMedian(_WINDOW), init=False, repr=False, compare=False
    )
    _row: list[float] = field(default_factory=list, init=False, repr=False, compare=False)
    _last: tuple[int, float] = field(default=(0, 0.0), init=False, repr=False, compare=False)  # of a step
    _quiet: int = field(default=_ALONE, init=False, repr=False, compare=False)  # steps since a large one
    _since: int = field(default=0, init=False, repr=False, compare=False)  # and since an outlier
    _outliers: deque[tuple[int, float]] = field(default_factory=deque, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("multiple", self.multiple, low=1, high=math.inf)
        if self.clip_to is not None and not 0 < self.clip_to <= self.multiple:
            raise ValueError(
                f"clip_to is {self.clip_to!r}; it must lie in (0, {self.multiple!r}], up to multiple"
            )
        if self.reference not in ("median", "third largest"):
            raise ValueError(f"reference is {self.reference!r}; it is 'median' or 'third largest'")
        if self.size not in ("preconditioned", "norm"):
            raise ValueError(f"size is {self.size!r}; it is 'preconditioned' or 'norm'")

    @property
    def needs(self) -> frozenset[Measure]:
        """The preconditioned gradient, or nothing besides the norm."""
        return _PRECONDITIONED if self.size == "preconditioned" else _NORM

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return a clip if the gradient is an outlier.

        Args:
            signals: The step about to be taken.
        """
        square = (
            signals.preconditioned_gradient if self.size == "preconditioned" else signals.squared_gradient
        )
        size = math.sqrt(square) if square >= 0 else math.nan
        if not math.isfinite(size):
            return ()
        level, before = self._level(), self._before(signals.step)
        self._last = signals.step, size
        large = size > self.multiple * level > 0  # not while the level is NaN
        soon, self._quiet = self._quiet < _ALONE, 0 if large else self._quiet + 1
        self._end_row(large=large)
        more = large and self._goes_on(size, before, signals)
        self.repeats = large and self.alone and not more and (before > _SLIGHTLY * level or soon)
        self.heavy = self.alone and self._comes_often(signals.step, size, outlier=large and not self.repeats)
        if not large or self.repeats or self.heavy:
            self._accept(size)
            return ()
        if not more:
            self.of_data = self.alone and signals.leap > _NO_WALL
        # Outside of the history: a few outliers would make the next one look usual.
        self._row.append(size)
        self._since = 0
        if len(self._row) > (_BAD if self.alone else _IN_A_ROW):
            self._sizes = RunningMedian(_WINDOW, self._row)
            self._row, self.of_data = [], False
            return ()
        times = size / level
        reason = f"the gradient is {times:.3g} × the {self.reference} of the last {_WINDOW} steps"
        clip_to = self.multiple if self.clip_to is None else self.clip_to
        # Ten of one direction would move the weights ten times as far.
        factor = clip_to / times / (len(self._row) if self.alone else 1)
        return (Decision("clip", factor, reason, times, self.multiple),)

    def take_back(self) -> None:
        """Forget the last outliers: they were found to be an instability."""
        self._row, self.of_data = [], False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {
            "sizes": list(self._sizes.values),
            "row": list(self._row),
            "last": list(self._last),
            "quiet": self._quiet,
            "of_data": self.of_data,
            "since": self._since,
            "outliers": [list(one) for one in self._outliers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._sizes = RunningMedian(_WINDOW, state["sizes"])
        self._row = list(state["row"])
        # Earlier versions remembered none of these.
        last = state.get("last", (0, 0.0))
        self._last = (int(last[0]), float(last[1])) if isinstance(last, Sequence) else (0, 0.0)
        self._quiet = int(state.get("quiet", _ALONE))
        self.of_data, self._since = bool(state.get("of_data", False)), int(state.get("since", 0))
        self._outliers = deque((int(step), float(one)) for step, one in state.get("outliers", ()))

    def _before(self, step: int) -> float:
        """Return the size of the last step; 0 if its gradient was not finite: it moved nothing."""
        last, size = self._last
        return size if step == last + 1 else 0.0

    def _end_row(self, *, large: bool) -> None:
        """Count a step; forget the last outliers once they are over."""
        self._since += 1
        over = self._since > _ALONE if self.alone else not large
        if over:
            self._row, self.of_data = [], False

    def _comes_often(self, step: int, size: float, *, outlier: bool) -> bool:
        """Count an outlier; return whether a size is none because there were too many."""
        keep_recent(self._outliers, step, _LONG)
        often = len(self._outliers) >= _MANY
        # Once they are in the history, that they go on coming shows against its median.
        heavy = often and size > self.multiple * self._sizes.median
        if outlier or heavy:
            self._outliers.append((step, size))
        return heavy

    def _goes_on(self, size: float, before: float, signals: GuardSignals) -> bool:
        """Return whether a large gradient is of the same bad data as the last outliers."""
        if not (self.alone and self._row and size > _ALIKE * self._row[0]):
            return False
        # A cosine that is not known is NaN, and above nothing.
        return self.of_data or before < _ALIKE * self._row[0] or signals.with_last > _TURNED

    def _accept(self, size: float) -> None:
        """Take a size into the history; of one that repeats, also those that were taken for outliers."""
        if self.repeats and not self.of_data:  # among bad data what they did to the weights may show
            for one in self._row:
                self._sizes.append(one)
            self._row = []
        self._sizes.append(size)

    def _level(self) -> float:
        """Return the usual size; NaN, which no size exceeds, while there are too few."""
        if len(self._sizes.values) < _FEWEST:
            return math.nan
        return self._sizes.median if self.reference == "median" else self._sizes.largest(3)
