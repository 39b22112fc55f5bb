"""Telling full batch from mini-batch without reading data."""

from __future__ import annotations

import torch

from foreshock.batches import BatchWatch


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
