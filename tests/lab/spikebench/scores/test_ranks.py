"""Areas and rank correlations against counting and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.lab.spikebench.scores.ranks import auroc, ranks, spearman


def counted(scores, labels):
    """Return the area by comparing every positive with every negative."""
    pairs = [(p, n) for p in scores[labels] for n in scores[~labels]]
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_area_is_the_share_of_pairs_in_order(seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, size=60).astype(float)
    labels = random.random(60) < 0.3
    assert auroc(scores, labels) == pytest.approx(counted(scores, labels), abs=1e-12)


def test_unknown_is_lowest_and_infinity_highest():
    labels = np.array([True, False, True])
    assert auroc(np.array([np.inf, 3.0, 4.0]), labels) == 1.0
    assert auroc(np.array([5.0, np.nan, -np.inf]), labels) == 0.75


def test_area_needs_both_kinds_and_pairs():
    assert math.isnan(auroc(np.ones(3), np.ones(3, dtype=bool)))
    assert math.isnan(auroc(np.ones(3), np.zeros(3, dtype=bool)))
    with pytest.raises(ValueError, match="pair up"):
        auroc(np.ones(3), np.ones(2, dtype=bool))


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_agrees_with_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 8, size=(2, 30)).astype(float)
    np.testing.assert_array_equal(ranks(a), stats.rankdata(a))
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rank_correlation_of_too_little_is_unknown():
    assert math.isnan(spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    assert math.isnan(spearman(np.ones(4), np.arange(4.0)))
    assert spearman(np.array([1.0, 2.0, np.inf]), np.array([9.0, 4.0, 1.0])) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="pair up"):
        spearman(np.ones(3), np.ones(4))
