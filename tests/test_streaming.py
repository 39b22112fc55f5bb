"""The streaming estimate against the edge of a known random curvature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreshock.dynamics import adam_recursion, mean_square_ratio
from foreshock.streaming import StreamingNoise


def stream_of(curvatures, *, memory: float = 25) -> list[float]:
    stream = StreamingNoise(torch.ones(curvatures.shape[1], dtype=torch.float64), memory=memory)
    return [stream.update(h * stream.direction, noise_factor=19.0) for h in torch.as_tensor(curvatures)]


def test_the_ratio_of_a_noisy_curvature_is_that_of_its_mean_and_variance():
    random = np.random.default_rng(0)
    curvatures = np.column_stack([random.normal(0.3, 0.05, 20_000), random.normal(0.01, 0.001, 20_000)])
    ratios = np.array(stream_of(curvatures, memory=400))[2000:]
    expected = mean_square_ratio(adam_recursion(0.9), learning_rate=38.0, mean=0.3, variance=0.05**2)
    # An exponential mean of m steps has 1/(2m − 1) of the variance: it hides less than a part in 700 here.
    # The mean of the estimates scatters by about √(2/18,000) of the noise's share.
    assert ratios.mean() == pytest.approx(expected, rel=0.03)


def test_without_noise_it_is_the_largest_eigenvalue():
    curvatures = np.tile([0.2, 0.9, -0.5], (300, 1))
    assert stream_of(curvatures)[-1] == pytest.approx(0.9, rel=1e-3)


def test_a_curvature_that_drifts_counts_as_noise():
    """Why halves of one batch are better: nothing is random here."""
    drifting = np.geomspace(0.1, 0.4, 100)[:, None]
    assert stream_of(drifting)[-1] > 1.1 * 0.4


def test_nothing_is_told_before_ten_steps_or_without_curvature():
    ratios = stream_of(np.full((12, 2), 0.3))
    assert [math.isnan(ratio) for ratio in ratios] == [True] * 9 + [False] * 3
    assert math.isnan(stream_of(np.full((50, 2), -0.3))[-1])
    assert math.isnan(stream_of(np.concatenate([np.full((20, 1), 0.3), [[math.nan]]]))[-1])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"start has norm 0\.0"):
        StreamingNoise(torch.zeros(3))
    with pytest.raises(ValueError, match="memory is 1"):
        StreamingNoise(torch.ones(3), memory=1)
    with pytest.raises(ValueError, match=r"product has shape \(2,\), the direction \(3,\)"):
        StreamingNoise(torch.ones(3)).update(torch.ones(2), noise_factor=1.0)
