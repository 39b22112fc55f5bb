"""Along which dimension a batch is split, and into what."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple

import pytest
import torch

from foreshock.batches import (
    ExampleAxes,
    MicroBatches,
    count_examples,
    example_axes,
    named_tensors,
    part_counts,
    split_along,
    split_batch,
    tensors_in,
)


def shapes(batch):
    return [tuple(tensor.shape) for tensor in tensors_in(batch)]


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


def test_a_hidden_state_is_split_along_its_second_dimension():
    hidden, x, y = torch.arange(32).reshape(2, 16), torch.arange(160).reshape(16, 10), torch.arange(16)
    for batch in ((hidden, x, y), {"h": hidden, "x": x, "y": y}, (x, {"state": (hidden,)}, y)):
        assert count_examples(batch) == 16
        for start, part in enumerate(split_batch(batch).batches):
            named = {tuple(tensor.shape): tensor for tensor in tensors_in(part)}
            assert torch.equal(named[2, 8], hidden[:, start::2])
            assert torch.equal(named[8, 10], x[start::2])
            assert torch.equal(named[8,], y[start::2])


def test_the_length_that_most_tensors_share_counts_not_that_of_the_first_one():
    table, x, y = torch.zeros(3), torch.zeros(16, 5), torch.zeros(16)
    assert count_examples((table, x, y)) == 16
    assert [shapes(part) for part in split_batch((table, x, y)).batches] == [[(3,), (8, 5), (8,)]] * 2


def test_shapes_that_leave_it_open_are_refused():
    hidden, cell, x = torch.zeros(2, 16, 8), torch.zeros(2, 16, 8), torch.zeros(16, 10)
    with pytest.raises(ValueError, match=r"\(2, 16, 8\).*pass MicroBatches, or a function"):
        split_batch((hidden, cell, x))
    with pytest.raises(ValueError, match="may lie along different dimensions"):
        split_batch((torch.zeros(16, 10), torch.zeros(10)))
    # As plausible at dimension 0, the length that more tensors have comes first.
    assert example_axes((hidden, x))[0] == ExampleAxes(16, (1, 0))
    # All readings are offered to whoever can try them out.
    found = {reading.examples: reading.axes for reading in reversed(example_axes((hidden, cell, x)))}
    assert found[16] == (1, 1, 0)
    assert found[2] == (0, 0, None)


def test_two_sets_of_other_lengths_are_split_along_the_first():
    parts = split_batch((torch.zeros(16, 3), torch.zeros(7)))
    assert parts.counts == [8, 8]
    assert shapes(parts.batches[0]) == [(8, 3), (7,)]


def test_a_function_of_the_user_splits_what_shapes_do_not_show():
    texts = ["a", "b", "c"]
    parts = split_batch(texts, how=lambda batch, many: [batch[start::many] for start in range(many)])
    assert list(parts.batches) == [["a", "c"], ["b"]]
    counted = MicroBatches(["ab", "c"], counts=[2, 1])
    assert split_batch(texts, how=lambda batch, many: counted) is counted


def test_containers_that_can_not_be_rebuilt_go_along_whole():
    class Fixed(tuple):
        __slots__ = ()

    Pair = namedtuple("Pair", "x y")
    batch = Pair(torch.arange(4), {"more": Fixed((torch.arange(4),)), "range": range(3)})
    first, second = split_batch(batch).batches
    assert type(first) is Pair
    assert (first.x.tolist(), second.y["more"][0].tolist()) == ([0, 2], [1, 3])


def test_one_example_can_not_be_split():
    with pytest.raises(ValueError, match="a batch of 1 examples can't be split into 2 parts"):
        split_batch((torch.zeros(1, 5), torch.zeros(1)))
    with pytest.raises(ValueError, match="3 examples can't be split into 4"):
        split_along(torch.zeros(3), ExampleAxes(3, (0,)), 4)


def test_tensors_are_named_as_one_would_write_them():
    batch = {"x": torch.zeros(1), "more": [torch.zeros(2), ("text", torch.zeros(3))]}
    named = dict(named_tensors(batch))
    assert list(named) == ["batch['x']", "batch['more'][0]", "batch['more'][1][1]"]
    assert list(named.values()) == list(tensors_in(batch))


def test_what_a_mean_may_be_over_is_counted():
    labels = torch.tensor([[3, 4, -100, -100], [5, -100, -100, -100], [6, 7, 8, 9]])
    mask = labels != -100
    parts = MicroBatches([{"y": labels[:2], "m": mask[:2]}, {"y": labels[2:], "m": mask[2:]}])
    counts = part_counts(parts)
    assert counts["batch['y'] != -100"] == counts["batch['m']"] == (3, 4)
    assert counts["batch['y'][:, 1:] != -100"] == (1, 3)
    assert counts["batch['y'] != 0"] == (8, 4)
    assert "~batch['m']" not in counts  # none in the second part
    lengths = MicroBatches([(torch.tensor([2, 1]),), (torch.tensor([4]),)])
    assert part_counts(lengths)["sum of batch[0]"] == (3, 4)
    assert part_counts(MicroBatches(["a", "b"])) == {}
