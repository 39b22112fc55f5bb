"""Equal accuracy: which setting of a tool is the cheapest that is accurate enough. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Setting = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """What one run of a tool gave at one point of training.

    Attributes:
        error: |value − reference| / |reference|; infinite if the tool failed.
        products: Hessian products spent.
    """

    error: float
    products: int


@dataclass(frozen=True)
class Trial:
    """A setting and its probes; cut short at the first that was not accurate enough."""

    setting: Setting
    probes: tuple[Probe, ...]

    def accurate(self, tolerance: float) -> bool:
        """Whether every probe met the tolerance; NaN does not."""
        return bool(self.probes) and all(probe.error <= tolerance for probe in self.probes)

    @property
    def products(self) -> int:
        """Products of all probes together."""
        return sum(probe.products for probe in self.probes)


def relative_error(value: float, reference: float) -> float:
    """Return |value − reference| / |reference|.

    Args:
        value: What a tool gave.
        reference: The truth, not zero.

    Raises:
        ZeroDivisionError: If the reference is zero.
    """
    return abs(value - reference) / abs(reference)


def least_setting(
    ladder: Iterable[Setting],
    run: Callable[[Setting, int], Probe],
    count: int,
    *,
    tolerance: float,
    ordered: bool,
) -> Trial | None:
    """Return the cheapest setting that is accurate at every point, or None.

    Args:
        ladder: Settings to try, cheapest first if `ordered`.
        run: (setting, number of the point) → probe; called in order of the points, from 0, for each setting.
        count: Number of points.
        tolerance: Largest relative error that counts as accurate.
        ordered: Whether the first accurate setting of the ladder is the cheapest; otherwise all settings are
            tried at the first point, and taken up in the order of the products that they needed there.

    Raises:
        ValueError: If `count` is not positive.
    """
    if not count > 0:
        raise ValueError(f"count must be positive, got {count!r}")
    candidates = list(ladder)
    if not ordered:
        first = [(setting, run(setting, 0)) for setting in candidates]
        passed = [(setting, probe) for setting, probe in first if probe.error <= tolerance]
        candidates = [setting for setting, _ in sorted(passed, key=lambda pair: pair[1].products)]
    for setting in candidates:
        trial = _try(setting, run, count, tolerance)
        if trial.accurate(tolerance):
            return trial
    return None


def _try(setting: Setting, run: Callable[[Setting, int], Probe], count: int, tolerance: float) -> Trial:
    probes: list[Probe] = []
    for point in range(count):
        probes.append(run(setting, point))
        if not probes[-1].error <= tolerance:
            break
    return Trial(setting, tuple(probes))
