"""Trainings from perturbed starts begin where they should, and counts are counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

from foreshock.optim import GuardedAdamW
from perturbed import STARTS, from_perturbed_starts, perturbed_weights


def start(make=optim.Adam):
    torch.manual_seed(3)
    model = nn.Linear(40, 20)
    make([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)
    return torch.cat([model.weight.detach().flatten(), model.bias.detach()])


@pytest.mark.parametrize("make", [optim.Adam, optim.SGD, GuardedAdamW])
def test_weights_move_by_a_millionth_of_their_size(make):
    plain = start()
    moved = from_perturbed_starts(lambda: start(make)).each
    assert len(moved) == STARTS
    for weights in moved:
        relative = ((weights - plain) / plain).std()
        assert relative.item() == pytest.approx(1e-6, rel=0.1)
    assert len({tuple(weights.tolist()) for weights in moved}) == STARTS
    assert torch.equal(start(), plain)


def test_groups_of_the_same_shape_move_apart():
    pair = [nn.Parameter(torch.ones(30, dtype=torch.float64)) for _ in range(2)]
    with perturbed_weights(0):
        optim.Adam([{"params": [one]} for one in pair])
    assert not torch.allclose(pair[0] - 1, pair[1] - 1, atol=1e-7)


def test_a_start_is_the_same_for_all_optimizers_and_leaves_the_random_numbers_alone():
    with perturbed_weights(2):
        one, other = start(), start(optim.AdamW)
        before = torch.get_rng_state()
        optim.Adam([nn.Parameter(torch.ones(3))])
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_counts_are_asserted_with_what_was_seen():
    outcomes = from_perturbed_starts(iter([5, 1, 7, 8, 9]).__next__)
    assert outcomes.total(lambda value: value) == 30
    outcomes.at_least(4, lambda value: value > 3)
    with pytest.raises(AssertionError, match=r"holds in 4 of 5 starts, not in 5:\n  holds: 5\n  FAILS: 1"):
        outcomes.every(lambda value: value > 3)
