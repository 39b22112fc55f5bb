"""Phase diagrams against single runs, and the known cycles of Adam on ½θ²."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.dynamics import find_excursions, phase_diagram, simulate_adam_on_quadratic


def excursions(learning_rate, betas, steps):
    run = simulate_adam_on_quadratic(steps, learning_rate=learning_rate, betas=betas)
    return find_excursions(run.stability_ratio, run.second_moment, run.squared_gradient)


def test_diagram_is_made_of_single_runs():
    beta1, beta2 = [0.0, 0.6, 0.9], [0.9, 0.97, 0.99]
    diagram = phase_diagram(beta1, beta2, learning_rate=0.05, steps=1500)
    for i, first in enumerate(beta1):
        for j, second in enumerate(beta2):
            ratio = simulate_adam_on_quadratic(
                1500, learning_rate=0.05, betas=(first, second)
            ).stability_ratio
            assert diagram.peak_ratio[i, j] == pytest.approx(float(ratio.max()), rel=1e-12)
            assert diagram.late_peak_ratio[i, j] == pytest.approx(float(ratio[750:].max()), rel=1e-12)
            armed, starts = True, []
            for step, value in enumerate(ratio):
                if armed and value >= 1:
                    starts.append(step)
                armed = value < 0.99 or (armed and value < 1)
            assert diagram.crossings[i, j] == len(starts)
            expected = np.diff(starts).mean() if len(starts) > 1 else math.nan
            assert diagram.interval[i, j] == pytest.approx(expected, nan_ok=True)


def test_adam_with_equal_decays_of_nine_tenths_does_not_cross():
    diagram = phase_diagram([0.9], [0.9], learning_rate=0.15, steps=4000)
    assert diagram.crossings[0, 0] == 0
    assert diagram.late_peak_ratio[0, 0] == pytest.approx(0.91, abs=0.005)


# The figures are medians over the spikes of a run, measured by another implementation. On a quadratic each
# spike is smaller than the one before, so that they depend on the run's length: it is chosen to end at the
# same spike.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("betas", "rate", "steps", "interval", "growth", "peak", "ratio"),
    [
        ((0.9, 0.999), 0.15, 20_000, 525, 90, 97, 1.045),
        ((0.9, 0.999), 0.01, 20_200, 1137, 169, 175, 1.09),
        ((0.0, 0.999), 0.15, 9_700, 204, 84, 104, 1.04),
    ],
)
def test_cycle_of_the_quadratic(betas, rate, steps, interval, growth, peak, ratio):
    found = excursions(rate, betas, steps)
    assert np.median(np.diff([e.peak for e in found])) == pytest.approx(interval, rel=0.03)
    assert np.median([e.growth - e.start for e in found]) == pytest.approx(growth, rel=0.03)
    assert np.median([e.peak - e.start for e in found]) == pytest.approx(peak, rel=0.03)
    assert np.median([e.peak_ratio for e in found]) == pytest.approx(ratio, abs=0.005)


def test_excursions_of_a_drawn_ratio():
    ratio = [0.9, 1.0, 1.1, 0.9, 0.95, 1.2, 0.5, 1.1]
    second = [9.0, 8.0, 8.5, 8.4, 8.3, 8.0, 7.0, 6.0]
    squared = [1.0, 2.0, 4.0, 8.0, 1.0, 3.0, 1.0, 1.0]
    first, second_found = find_excursions(ratio, second, squared)
    assert (first.start, first.growth, first.peak, first.end) == (1, 2, 3, 3)
    assert first.peak_ratio == 1.1
    assert first.log_magnification == pytest.approx(math.log(4))
    # v does not grow at all: the end stands in for it.
    assert (second_found.start, second_found.growth, second_found.end) == (5, 6, 6)


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="they must agree"):
        find_excursions([1.0], [1.0, 2.0], [1.0])
