"""Targets that an older copy of the network makes."""

import itertools

import pytest
import torch

from foreshock.lab.tasks import build_task
from foreshock.lab.tasks.value import CONTRACTION, DISCOUNT


def build(batch_size=None, **options):
    return build_task("value", batch_size=batch_size, seed=0, transitions=12, width=6, **options)


def change(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)


def test_targets_follow_the_network_only_when_they_are_renewed():
    task = build(refresh=3)
    batches = []
    for _ in range(7):
        batches.append(next(task.batches))
        change(task.model)
    same = [one is other for one, other in itertools.pairwise(batches)]
    assert same == [True, True, False, True, True, False]
    assert not torch.equal(batches[0][1], batches[3][1])


def test_the_first_targets_are_reward_and_discounted_prediction():
    task = build()
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.zero_()
        task.model[-1].bias.fill_(2.0)
    states, targets = next(task.batches)
    reward = torch.sin(3 * states).sum(dim=1, keepdim=True)
    assert torch.allclose(targets, reward + DISCOUNT * 2.0)


def test_mini_batches_have_the_targets_of_their_own_states():
    whole = build()
    states, targets = next(whole.batches)
    known = {tuple(state.tolist()): target.item() for state, target in zip(states, targets, strict=True)}
    for _ in range(5):
        some, theirs = next(build(batch_size=4).batches)
        assert [known[tuple(state.tolist())] for state in some] == pytest.approx(
            theirs.flatten().tolist(), rel=1e-5
        )


def test_held_out_values_are_where_the_recursion_ends():
    """V = r + γ·V(x'): one more reward in front of the values of the next states gives those of the first."""
    states, values = build().validation
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    total, discount, following = torch.zeros(len(states), 1), 1.0, states
    for _ in range(400):
        total += discount * torch.sin(3 * following).sum(dim=1, keepdim=True)
        following, discount = CONTRACTION * following @ rotation.T, DISCOUNT * discount
    # 200 further rewards weigh at most .7²⁰⁰·14, which is nothing.
    assert torch.allclose(values, total, atol=1e-4)
    assert torch.allclose(rotation @ rotation.T, torch.eye(4), atol=1e-5)
