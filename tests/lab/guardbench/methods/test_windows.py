"""Rules on the last 128 steps, on made-up gradients and against their definitions written out anew."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import Subject, method
from foreshock.lab.tasks import OptimizerConfig, build_optimizer

CONFIG = OptimizerConfig("adamw", 0.1, weight_decay=0.2)


class Driven:
    """A network of two weights that is driven by given gradients and losses."""

    def __init__(self, name, optimizer=None):
        self.model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
        nn.init.ones_(self.model.weight)
        self.optimizer = optimizer(self.model) if optimizer else build_optimizer(self.model, CONFIG)
        self.helper = method(name).intervene(Subject(self.model, self.optimizer, lambda model, batch: None))

    def step(self, gradient, loss=1.0):
        """Return how the weights move, and whether that was changed."""
        before = self.model.weight.detach().clone()
        self.model.weight.grad = torch.tensor([gradient], dtype=torch.float64)
        self.helper.before_step(None, loss)
        self.optimizer.step()
        acted = self.helper.after_step()
        return (self.model.weight.detach() - before).flatten(), acted


def steady(index):
    return [1.0 + 0.1 * (-1) ** index, 0.0]


def warm(driven, steps):
    assert not any(driven.step(steady(index), 1.0 + 0.1 * (-1) ** index)[1] for index in range(steps))


@pytest.mark.parametrize(("gradient", "loss"), [([1.0, 0.0], 5.0), ([9.0, 0.0], 1.0), ([math.inf, 0.0], 1.0)])
def test_skip_step_changes_neither_weights_nor_moments(gradient, loss):
    driven = Driven("skip-step")
    warm(driven, 130)
    state = {name: value.clone() for name, value in driven.optimizer.state[driven.model.weight].items()}
    move, acted = driven.step(gradient, loss)
    assert acted
    assert move.tolist() == [0.0, 0.0]
    after = driven.optimizer.state[driven.model.weight]
    assert all(torch.equal(state[name], after[name]) for name in state)
    assert not driven.step(steady(0))[1]


def test_skip_step_takes_six_deviations_of_the_last_128():
    """Of ±.1 around 1 the sample deviation is .1·√(128/127): the limit is 1.6024."""
    for loss, skipped in ((1.602, False), (1.603, True)):
        driven = Driven("skip-step")
        driven.step([1.0, 0.0], 100.0)  # has left the window by then, else the deviation were 8.7
        warm(driven, 128)
        assert driven.step([1.0, 0.0], loss)[1] is skipped


def test_skip_step_waits_for_64_steps():
    for steps, skipped in ((62, False), (63, True)):  # the step itself is one of the 64
        driven = Driven("skip-step")
        warm(driven, steps)
        assert driven.step([1.0, 0.0], 100.0)[1] is skipped


def plain(model):
    return torch.optim.SGD(model.parameters(), lr=0.5)


def test_clip_update_norm_shortens_the_step_to_three_deviations_and_remembers_the_whole():
    driven = Driven("clip-update-norm", plain)
    warm(driven, 64)
    move, acted = driven.step([30.0, 40.0])
    assert acted
    assert move.tolist() == pytest.approx([-0.5 * 1.3 * 0.6, -0.5 * 1.3 * 0.8])
    # Now 50 is among the norms, though the step was shorter: that one is no outlier any more.
    norms = [1.0 + 0.1 * (-1) ** index for index in range(64)] + [50.0]
    mean = sum(norms) / 65
    limit = mean + 3 * (sum((norm - mean) ** 2 for norm in norms) / 65) ** 0.5
    assert driven.step([limit - 0.01, 0.0])[1] is False
    driven.helper._norms.pop()
    assert driven.step([limit + 0.01, 0.0])[0].tolist() == pytest.approx([-0.5 * limit, 0.0])


def test_clip_update_norm_waits_for_64_norms_and_leaves_the_moments_alone():
    for steps, clipped in ((63, False), (64, True)):
        driven = Driven("clip-update-norm", plain)
        warm(driven, steps)
        assert driven.step([9.0, 0.0])[1] is clipped
    ours, adams = Driven("clip-update-norm"), Driven("skip-step")
    for driven in (ours, adams):
        for index in range(64):
            driven.step(steady(index))
        driven.step([0.0, 1.5])  # Adam's update along a new direction is 1.4 times the usual, once
    assert torch.equal(
        ours.optimizer.state[ours.model.weight]["exp_avg_sq"],
        adams.optimizer.state[adams.model.weight]["exp_avg_sq"],
    )


def test_clip_update_norm_leaves_the_learning_rate_out():
    """A rate that is raised tenfold makes no outlier of an update like the others."""
    driven = Driven("clip-update-norm", plain)
    warm(driven, 64)
    for rate in (5.0, 0.0):  # some schedules end at 0
        driven.optimizer.param_groups[0]["lr"] = rate
        assert not driven.step(steady(0))[1]
