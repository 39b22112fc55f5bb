"""Telling full batch from mini-batch, whichever tensors the data come in."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from foreshock.batches import BatchWatch, MicroBatches, named_tensors, tensors_in
from foreshock.batches.content import content, same_content


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def watched(*batches) -> bool | None:
    watch = BatchWatch()
    for batch in batches:
        watch.see(batch)
    return watch.constant


def test_the_same_tensors_are_a_constant_batch():
    x, y = torch.ones(2), torch.zeros(2)
    assert watched((x, y), [x, y], (x, y)) is True
    assert watched({"x": x, "more": {"y": y}}, {"x": x, "more": {"y": y}}) is True


def test_the_same_data_in_new_tensors_are_too():
    x, y = numbers(0, 8, 3), numbers(1, 8)
    watch = BatchWatch()
    for _ in range(200):
        watch.see({"x": x.clone(), "y": y.clone()})
        assert watch.constant in (None, True)
    assert watch.constant is True
    assert watch.confirm({"x": x.clone(), "y": y.clone()}) is True


def test_a_full_batch_that_is_shuffled_anew_is_constant():
    x, y = numbers(0, 500, 3), torch.arange(500) % 7
    watch = BatchWatch()
    for seed in range(120):
        order = torch.randperm(500, generator=torch.Generator().manual_seed(seed))
        watch.see((x[order], y[order]))
    assert watch.constant is True
    # Inputs that get the targets of others are other data, though each tensor has the same values.
    assert watched((x, y), (x[order], y.clone())) is False


def test_batches_with_equal_sums_and_samples_differ_all_the_same():
    """One-hot inputs have the sum, the sum of squares and nearly all elements in common."""
    one, other = torch.eye(10)[[0, 1, 2, 3]], torch.eye(10)[[0, 1, 2, 4]]
    assert watched(one, other) is False
    assert watched(torch.tensor([[1, 4], [2, 3]]), torch.tensor([[1, 3], [2, 4]])) is False
    assert watched(one, -one) is False
    rare = numbers(0, 10_000, 2)
    changed = rare.clone()
    changed[7777, 1] += 1e-3
    assert watched(rare, changed) is False


def test_two_batches_of_an_epoch_are_not_constant_whatever_their_number():
    """Of as many batches as lie between two readings the same one would be met each time."""
    for many in (2, 3, 25, 50):
        batches = [numbers(seed, 4, 2) for seed in range(many)]
        watch = BatchWatch()
        for step in range(4 * many + 8):
            watch.see(batches[step % many].clone())
            assert watch.constant is (None if step == 0 else False)


def test_data_that_begin_to_differ_are_noticed_before_anything_rests_on_them():
    x = numbers(0, 8, 3)
    watch = BatchWatch()
    for _ in range(20):
        watch.see(x.clone())
    assert watch.constant is True
    watch.see(numbers(1, 8, 3))
    assert watch.confirm(numbers(1, 8, 3)) is False
    for seed in range(2, 90):
        watch.see(numbers(seed, 8, 3))
        assert watch.constant is False


def test_data_that_begin_to_differ_are_noticed_within_fifty_steps():
    x = numbers(0, 8, 3)
    watch = BatchWatch()
    for step in range(120):
        watch.see(x.clone() if step < 20 else numbers(step, 8, 3))
        assert watch.constant is (None if step == 0 else step <= 50)


def test_batches_that_become_the_same_are_noticed():
    x = numbers(0, 8, 3)
    watch = BatchWatch()
    for step in range(520):
        watch.see(numbers(step, 8, 3) if step < 20 else x.clone())
    assert watch.constant is True


def test_other_shapes_are_other_data():
    assert watched(torch.ones(3), torch.ones(4)) is False
    assert watched(torch.ones(3), torch.ones(3, dtype=torch.int64)) is False
    assert watched(torch.ones(3), (torch.ones(3), torch.ones(3))) is False


def test_a_difference_once_seen_is_remembered():
    x = numbers(0, 2)
    assert watched(x, numbers(1, 2), x, x) is False


def test_a_buffer_that_is_refilled_is_not_constant():
    x = torch.ones(2)
    watch = BatchWatch()
    watch.see(x)
    x.mul_(2)
    watch.see(x)
    assert watch.constant is False


def test_a_buffer_that_is_refilled_with_the_same_data_is_constant():
    x, data = torch.ones(2), numbers(0, 2)
    watch = BatchWatch()
    for _ in range(3):
        x.copy_(data)
        watch.see(x)
    assert watch.constant is True


def test_an_address_that_is_used_again_is_not_the_same_tensor():
    watch = BatchWatch()
    for seed in range(20):
        watch.see(numbers(seed, 3))
    assert watch.constant is False


def test_data_that_are_renewed_now_and_then_are_no_mini_batches():
    x, y, watch = numbers(0, 2), numbers(1, 2), BatchWatch()
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
    watch.see(torch.zeros(1))
    assert watch.constant is True


def test_a_resumed_watch_knows_what_it_saw():
    watch = BatchWatch()
    for seed in range(3):
        watch.see(numbers(seed, 2))
    resumed = BatchWatch()
    resumed.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert resumed.constant is False
    assert resumed.usual_examples == 2
    resumed.see(numbers(3, 2))
    assert resumed.constant is False


def test_random_numbers_and_the_data_stay_as_they_are():
    x = numbers(0, 8, 3).requires_grad_()
    before = torch.get_rng_state(), random.getstate()
    watched(x.clone(), x.clone(), x.clone())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert x.grad is None


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.complex64])
def test_all_dtypes_have_content(dtype):
    x = (numbers(0, 6, 2) * 3).to(dtype)
    changed = x.clone()
    changed[3, 1] = 1 - x[3, 1] if dtype != torch.bool else ~x[3, 1]
    assert same_content(content(x), content(x.flip(0).clone()))
    assert not same_content(content(x), content(changed))


def test_content_with_missing_values_and_without_any():
    x = torch.tensor([[1.0, math.nan], [math.inf, 2.0]])
    assert same_content(content(x), content(x.clone()))
    assert not same_content(content(x), content(x * 2))
    assert content("text") is None
    assert not same_content(None, None)
    assert watched(torch.zeros(0, 3), torch.zeros(0, 3)) is True


def test_a_tensor_that_can_not_be_read_is_never_called_the_same():
    one = torch.eye(3).to_sparse()
    assert watched(one, one.clone()) is False
    assert watched(one, one) is True


def test_micro_batches_are_the_same_data_in_any_order():
    first, second = numbers(0, 4, 2), numbers(1, 4, 2)
    whole = MicroBatches([first, second])
    assert watched(whole, MicroBatches([second.clone(), first.clone()])) is True
    assert watched(whole, MicroBatches([first.clone(), first.clone()])) is False


def test_the_number_of_examples_and_what_is_new_about_it():
    watch = BatchWatch()
    assert (watch.examples, watch.usual_examples, watch.change) == (None, None, "")
    told = []
    for size in (16, 16, 16, 1, 16, 16, 1, 16):
        watch.see((torch.ones(size, 3), torch.ones(size)))
        assert watch.examples == size
        told.append(watch.change)
    assert told == ["", "", "", "the batch has 1 examples; the one before had 16", "", "", "", ""]
    assert watch.usual_examples == 16
    watch.see(MicroBatches([torch.ones(4, 2), torch.ones(3, 2)]))
    assert watch.examples == 7
    watch.see("text")
    assert watch.examples is None


def test_the_longer_one_of_two_alternating_sizes_is_usual():
    watch, usual = BatchWatch(), []
    for size in (1, 25, 1, 25, 1):
        watch.see(torch.ones(size))
        usual.append(watch.usual_examples)
    assert usual == [1, 25, 25, 25, 25]


class Raising(dict):
    """A mapping that can't be read."""

    def items(self):
        raise OSError("the file is gone")

    values = keys = __iter__ = items


def looped():
    batch = [torch.ones(4, 3)]
    batch.append({"again": batch})
    return batch


def nested():
    batch = torch.ones(4, 3)
    for _ in range(5000):
        batch = [batch]
    return batch


@pytest.mark.parametrize("make", [Raising, lambda: [Raising()] * 4, looped, nested])
def test_an_odd_batch_is_seen_without_an_error(make):
    watch = BatchWatch()
    for _ in range(3):
        watch.see(make())
    assert watch.examples == (4 if make is looped else None)
    assert watch.confirm(make()) in (None, True)


def test_tensors_of_an_odd_batch_are_those_that_can_be_reached():
    batch = [torch.ones(1), {}, Raising(), torch.zeros(1)]
    batch[1] = {"again": batch, "more": torch.full((1,), 2.0)}
    assert [float(tensor) for tensor in tensors_in(batch)] == [1, 2, 0]
    assert [name for name, _ in named_tensors(batch)] == ["batch[0]", "batch[1]['more']", "batch[3]"]
    assert list(tensors_in(nested())) == []
