r"""Clip gradients that stick out of their own recent history, measured in the metric of the optimizer.

.. math:: q = \sqrt{g^\top D^{-1} g}

D contains the present gradient, so that coordinates that were never seen before don't count without
bound; and q is to ‖g‖ what the step is to the gradient: rescaling a layer's loss or weights doesn't move the
threshold. AdaGC (Wang et al. 2025, arXiv 2502.11034) and ZClip (Kumar et al. 2025, arXiv 2504.02507) clip by
running statistics of the Euclidean norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from foreshock.dynamics.signals import RunningMedian
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold

_WINDOW = 100
_FEWEST = 50  # sizes before any is an outlier
_IN_A_ROW = 3
_PRECONDITIONED: frozenset[Measure] = frozenset({"preconditioned gradient"})
_NORM: frozenset[Measure] = frozenset({"norm"})
_SLIGHTLY = 1.5  # a size up to this multiple of the usual one does not keep the next from coming alone
_ALONE = 5  # steps after an outlier within which another one is no coincidence

# Bad data may come in several batches. ‖g‖² over all of the last eight steps that only data make: a wall of
# the loss makes some hundreds at once. Of smaller ones the next shows whether the gradient turned, as that of
# an instability does: the cosine to the last one, then. And the share of the first one's size from which
# others are of the same data, and how many there are before they count as a new level.
_NO_WALL, _TURNED, _ALIKE, _BAD = 1e4, -0.6, 0.1, 10


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
            an instability, whose gradient is the restoring force, and which v has to see. Unless it has at
            least a tenth of the first one's size and has not turned against the gradient before it, or the
            first one made ‖g‖² jump ten-thousandfold at once: these are bad data, of ten batches at most.
        repeats: Whether the last gradient was as large as an outlier, but is none because of `alone`.
        of_data: Whether the last outliers were so large at once that only data make them.

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
    name: ClassVar[str] = "outlier"
    scales_decay: ClassVar[bool] = False
    _sizes: RunningMedian = field(
        default_factory=lambda: RunningMedian(_WINDOW), init=False, repr=False, compare=False
    )
    _row: list[float] = field(default_factory=list, init=False, repr=False, compare=False)
    _last: float = field(default=0.0, init=False, repr=False, compare=False)
    _quiet: int = field(default=_ALONE, init=False, repr=False, compare=False)  # steps since a large one
    _since: int = field(default=0, init=False, repr=False, compare=False)  # and since an outlier

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

    @property
    def exact_above(self) -> float:
        """Infinity: the secant is not used."""
        return math.inf

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
        level, before, self._last = self._level(), self._last, size
        large = size > self.multiple * level > 0  # not while the level is NaN
        soon, self._quiet = self._quiet < _ALONE, 0 if large else self._quiet + 1
        self._end_row(large=large)
        more = large and self._goes_on(size, signals)
        self.repeats = large and self.alone and not more and (before > _SLIGHTLY * level or soon)
        if not large or self.repeats:
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
        return (Decision("clip", clip_to / times, reason, times, self.multiple),)

    def take_back(self) -> None:
        """Forget the last outliers: they were found to be an instability."""
        self._row, self.of_data = [], False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {
            "sizes": list(self._sizes.values),
            "row": list(self._row),
            "last": self._last,
            "quiet": self._quiet,
            "of_data": self.of_data,
            "since": self._since,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._sizes = RunningMedian(_WINDOW, state["sizes"])
        self._row = list(state["row"])
        # Earlier versions remembered none of these.
        self._last, self._quiet = float(state.get("last", 0.0)), int(state.get("quiet", _ALONE))
        self.of_data, self._since = bool(state.get("of_data", False)), int(state.get("since", 0))

    def _end_row(self, *, large: bool) -> None:
        """Count a step; forget the last outliers once they are over."""
        self._since += 1
        if self._since > _ALONE if self.alone else not large:
            self._row, self.of_data = [], False

    def _goes_on(self, size: float, signals: GuardSignals) -> bool:
        """Return whether a large gradient is of the same bad data as the last outliers."""
        # A cosine that is not known is NaN, and above nothing.
        alike = bool(self._row) and size > _ALIKE * self._row[0]
        return self.alone and alike and (self.of_data or signals.with_last > _TURNED)

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
