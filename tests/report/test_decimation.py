import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from foreshock.report.decimation import POINTS, keep


def test_a_spike_of_one_step_survives():
    loss = np.random.default_rng(0).uniform(0.9, 1.1, size=250_000)
    loss[123_457] = 40.0
    kept = keep([loss])
    assert 123_457 in kept
    assert len(kept) <= POINTS


def test_each_column_keeps_its_own_extremes_and_both_ends():
    first, second = np.zeros(50_000), np.zeros(50_000)
    first[777], second[778] = 1.0, -1.0
    assert {0, 777, 778, 49_999} <= set(keep([first, second]).tolist())


def test_a_gap_of_one_step_stays_a_gap():
    column = np.linspace(0, 1, 30_000)
    column[20_001] = np.nan
    assert 20_001 in keep([column])


def test_few_points_are_all_kept():
    assert keep([np.arange(POINTS, dtype=np.float64)]).tolist() == list(range(POINTS))
    assert keep([np.arange(0.0)]).tolist() == []


@given(arrays.arrays(np.float64, st.integers(31, 400), elements=st.floats(-1e6, 1e6) | st.just(float("nan"))))
def test_the_envelope_is_that_of_the_whole(column):
    kept = keep([column], points=30)
    assert np.all(np.diff(kept) > 0)
    assert len(kept) <= 32
    for extreme in (np.min, np.max):
        finite, drawn = column[~np.isnan(column)], column[kept][~np.isnan(column[kept])]
        assert not finite.size or extreme(finite) == extreme(drawn)
    assert np.isnan(column).any() == np.isnan(column[kept]).any()


def test_stretches_are_kept_whole_and_the_rest_is_not():
    values = np.random.default_rng(0).standard_normal(100_000)
    kept = set(keep([values], points=300, whole=[(50_000, 50_400), (99_990, 100_200)]).tolist())
    assert set(range(50_000, 50_400)) <= kept
    assert set(range(99_990, 100_000)) <= kept
    assert len(kept) < 1200
