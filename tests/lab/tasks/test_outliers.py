"""Batches that are corrupted now and then."""

import itertools

import pytest
import torch

from foreshock.lab.tasks.outliers import REST, OutlierBatches


def stream(targets):
    return iter([(torch.arange(len(targets)), targets)] * 400)


def test_real_targets_are_scaled_and_only_where_it_says_so():
    targets = torch.tensor([1.0, -2.0])
    outliers = OutlierBatches(stream(targets), share=0.3, seed=1, factor=7.0)
    seen = [(outliers.corrupted, made) for _, made in outliers]
    assert 5 < sum(corrupted for corrupted, _ in seen) < 20
    for corrupted, made in seen:
        assert torch.equal(made, 7.0 * targets if corrupted else targets)


def test_labels_are_shuffled_inside_the_batch():
    labels = torch.arange(50)
    outliers = OutlierBatches(stream(labels), share=0.9, seed=0)
    moved = [made for _, made in outliers if outliers.corrupted]
    assert all(torch.equal(made.sort().values, labels) and not torch.equal(made, labels) for made in moved)


def test_outliers_leave_time_between_them():
    outliers = OutlierBatches(stream(torch.ones(1)), share=0.99, seed=0)
    steps = [step for step, _ in enumerate(outliers) if outliers.corrupted]
    assert steps[0] >= REST
    assert min(later - earlier for earlier, later in itertools.pairwise(steps)) > REST


def test_a_seed_fixes_them():
    def places(seed):
        outliers = OutlierBatches(stream(torch.ones(1)), share=0.1, seed=seed)
        return [step for step, _ in enumerate(outliers) if outliers.corrupted]

    assert places(3) == places(3) != places(4)


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_bad_share(share):
    with pytest.raises(ValueError, match="it is the share of corrupted batches"):
        OutlierBatches(stream(torch.ones(1)), share=share, seed=0)
