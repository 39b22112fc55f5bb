"""Telling full batch from mini-batch without reading data."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

import torch

from foreshock.batches import BatchWatch, count_examples, split_batch


def watched(*batches) -> bool | None:
    watch = BatchWatch()
    for batch in batches:
        watch.see(batch)
    return watch.constant


def test_the_same_tensors_are_a_constant_batch():
    x, y = torch.ones(2), torch.zeros(2)
    assert watched((x, y), [x, y], (x, y)) is True
    assert watched({"x": x, "more": {"y": y}}, {"x": x, "more": {"y": y}}) is True


def test_other_tensors_are_not_even_with_equal_content():
    assert watched(torch.ones(2), torch.ones(2)) is False


def test_a_difference_once_seen_is_remembered():
    x = torch.ones(2)
    assert watched(x, torch.ones(2), x, x) is False


def test_a_buffer_that_is_refilled_is_not_constant():
    x = torch.ones(2)
    watch = BatchWatch()
    watch.see(x)
    x.mul_(2)
    watch.see(x)
    assert watch.constant is False


def test_an_address_that_is_used_again_is_not_the_same_tensor():
    watch = BatchWatch()
    for _ in range(20):
        watch.see(torch.ones(3))
    assert watch.constant is False


def test_data_that_are_renewed_now_and_then_are_no_mini_batches():
    x, y, watch = torch.ones(2), torch.ones(2), BatchWatch()
    told = []
    for batch in [x] * 3 + [y] * 14:
        watch.see(batch)
        told.append(watch.constant)
    assert told == [None, True, True] + [False] * 10 + [True] * 4


def test_batches_without_tensors_tell_nothing():
    assert watched("text", "text") is None
    assert watched(None, None) is None
    assert watched(torch.ones(1)) is None


def test_the_user_knows_better():
    watch = BatchWatch(constant=True)
    watch.see(torch.ones(1))
    watch.see(torch.ones(1))
    assert watch.constant is True


def test_a_resumed_watch_knows_what_it_saw():
    watch = BatchWatch()
    for _ in range(3):
        watch.see(torch.ones(2))
    resumed = BatchWatch()
    resumed.load_state_dict(watch.state_dict())
    assert resumed.constant is False
    resumed.see(torch.ones(2))
    assert resumed.constant is False


def test_a_list_of_samples_is_split_by_samples():
    samples = [{"ids": torch.arange(6) + 10 * place} for place in range(5)]
    parts = split_batch(samples)
    assert parts.counts == [3, 2]
    assert [one["ids"][0].item() for one in parts.batches[0]] == [0, 20, 40]
    assert count_examples(samples) == 5
    # Two of them may as well be inputs and targets, and mappings with other keys are parts of one batch.
    assert split_batch(samples[:2]).counts == [3, 3]
    mixed = [samples[0], samples[1], {"labels": torch.arange(6)}]
    assert split_batch(mixed).counts == [3, 3]


def test_a_mapping_that_is_not_made_from_a_mapping_becomes_a_plain_one():
    batch = defaultdict(list, {"x": torch.arange(4)})
    even, odd = split_batch(batch).batches
    assert even["x"].tolist() == [0, 2]
    assert odd["x"].tolist() == [1, 3]
    assert type(split_batch(OrderedDict(batch)).batches[0]) is OrderedDict
