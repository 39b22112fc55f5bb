import itertools

import pytest
import torch

from foreshock.lab.tasks.streams import REST, OutlierBatches, draw_batches, stream_batches


def test_full_batch_is_the_same_objects_at_every_step():
    data = (torch.arange(5), torch.arange(5))
    batches = stream_batches(data, batch_size=None, seed=0)
    for batch in itertools.islice(batches, 3):
        assert batch[0] is data[0]
        assert batch[1] is data[1]


def test_an_epoch_has_each_example_at_most_once_and_drops_the_rest():
    numbers = torch.arange(7)
    batches = stream_batches((numbers, 10 * numbers), batch_size=3, seed=1)
    for _ in range(20):
        epoch = [next(batches), next(batches)]
        seen = torch.cat([batch[0] for batch in epoch])
        assert len(seen) == len(seen.unique()) == 6
        assert all(torch.equal(targets, 10 * inputs) for inputs, targets in epoch)


def test_epochs_differ_and_every_example_is_seen():
    batches = stream_batches((torch.arange(7),), batch_size=3, seed=1)
    drawn = torch.stack([next(batches)[0] for _ in range(40)])
    assert len(drawn.unique()) == 7
    assert not torch.equal(drawn[0:2], drawn[2:4])


def test_order_depends_on_the_seed_only():
    def first(seed):
        stream = stream_batches((torch.arange(50),), batch_size=50, seed=seed)
        torch.rand(3)  # the global state must not matter
        return next(stream)[0]

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_fresh_batches_go_on_with_one_generator():
    batches = draw_batches(lambda generator: (torch.rand(4, generator=generator),), seed=0)
    one, two = next(batches)[0], next(batches)[0]
    assert not torch.equal(one, two)
    again = draw_batches(lambda generator: (torch.rand(4, generator=generator),), seed=0)
    assert torch.equal(next(again)[0], one)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, float("nan"), "8"])
def test_refuses_an_impossible_batch_size(size):
    with pytest.raises(ValueError, match="batch_size must be an integer"):
        stream_batches((torch.arange(5),), batch_size=size, seed=0)


def test_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="batch_size is 6, but the training set has 5"):
        stream_batches((torch.arange(5),), batch_size=6, seed=0)


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
