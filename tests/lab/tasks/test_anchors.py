"""Composed anchor functions: the answer is that of a loop written by hand, wherever the phrase lies."""

import pytest
import torch

from foreshock.lab.tasks import build_task
from foreshock.lab.tasks.anchors import ANCHORS, compose

SHIFTS = [5, 1, -2, -8]


@pytest.mark.parametrize(("length", "keys"), [(3, 7), (9, 100)])
def test_the_answer_is_the_key_moved_by_both_anchors(length, keys):
    symbols, answers = compose(200, length=length, keys=keys)
    places = set()
    for row, answer in zip(symbols.tolist(), answers.tolist(), strict=True):
        place = next(i for i, symbol in enumerate(row) if symbol < ANCHORS)
        places.add(place)
        first, second = row[place], row[place + 1]
        assert max(first, second) < ANCHORS
        assert sum(symbol < ANCHORS for symbol in row) == 2
        assert answer == ANCHORS + (row[place - 1] - ANCHORS + SHIFTS[first] + SHIFTS[second]) % keys
    assert places == set(range(1, length - 1))


def test_only_the_answer_is_predicted():
    task = build_task("anchors", batch_size=5, seed=0, sequences=20, keys=9, width=8)
    symbols, answers = next(task.batches)
    assert task.model(symbols).shape == (5, ANCHORS + 9)
    assert answers.shape == (5,)


@pytest.mark.parametrize(
    ("options", "message"), [({"length": 2}, "length must be"), ({"keys": 1}, "keys must be")]
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        build_task("anchors", batch_size=None, seed=0, **options)


def test_equal_calls_give_equal_sequences():
    assert torch.equal(compose(10, length=5, keys=9)[0], compose(10, length=5, keys=9)[0])
