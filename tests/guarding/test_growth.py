"""An instability far above the edge: the gradient shows it before the last displacement does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn, optim

from foreshock.guardbench.methods import method
from foreshock.guardbench.suite import suite
from foreshock.guardbench.training import train
from foreshock.guarding import GuardSignals, Secant, guard
from foreshock.guarding.growth import Growth
from foreshock.stability import growing_ratio
from guarding.training import Script


def after(*squares):
    growth = Growth()
    for square in squares:
        growth.update(square)
    return growth


def test_growth_is_what_three_factors_have_in_common():
    assert after(1.0, 9.0, 18.0, 90.0).sustained == 2.0
    assert after(5.0, 1.0, 9.0, 18.0, 90.0).sustained == 2.0
    assert after(9.0, 1.0, 9.0, 81.0).sustained == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    "squares", [(1.0, 9.0, 81.0), (0.0, 1.0, 9.0, 81.0), (1.0, 9.0, math.inf, 9.0, 81.0)]
)
def test_without_three_factors_there_is_no_growth(squares):
    assert math.isnan(after(*squares).sustained)


def test_one_large_gradient_neither_grows_nor_wakes():
    for squares in ((1.0, 1.0, 1.0, 1e6), (1.0, 1.0, 1e6, 1.0), (1.0, 1e6, 1.0, 1.0)):
        growth = after(*squares)
        assert growth.sustained <= 1
        assert not growth.wakes
    assert after(1.0, 2.0, 4.0).wakes
    assert not after(1.0, 1.9, 4.0).wakes


def test_growth_goes_on_after_loading():
    growth = Growth()
    growth.load_state_dict(after(1.0, 3.0, 9.0).state_dict())
    growth.update(27.0)
    assert growth.sustained == 3.0


@pytest.mark.parametrize(
    ("secant", "growth", "acts"),
    [(0.5, 3.0, True), (0.5, 2.0, False), (0.2, 3.0, False), (0.5, math.nan, False), (math.nan, 3.0, False)],
)
def test_violent_growth_raises_v_once_the_displacement_shows_the_direction(secant, growth, acts):
    seen = GuardSignals(step=99, updates=100, secant=secant, growth=growth, beta1=0.9)
    decisions = Secant().decide(seen)
    assert bool(decisions) == acts
    if acts:
        ratio = growing_ratio(math.sqrt(growth), beta1=0.9)
        assert decisions[0].factor == pytest.approx(ratio / 0.9)
        assert decisions[0].value == pytest.approx(ratio)
        assert "grew 3-fold" in decisions[0].reason


def test_the_secant_is_measured_as_soon_as_the_gradient_doubles_twice():
    """Far from the edge it is measured every fourth step only."""
    script = Script(needs=("secant",))
    script.exact_from = 0.9
    theta = nn.Parameter(torch.zeros(2))
    optimizer = optim.Adam([theta], lr=1e-6)
    watched = guard(optimizer, script)
    for step in range(24):
        theta.grad = torch.full((2,), 1.0 if step < 15 else 2.0 ** (step - 14))
        optimizer.step()
    measured = [one.step for one in watched.policy.seen if not math.isnan(one.secant)]
    assert measured[:4] == [1, 5, 9, 13]
    # Doubled at 15 and 16: the displacement of 16 is remembered, and from 17 on each step is measured.
    assert measured[4:] == list(range(17, 24))


def test_growth_is_not_that_over_steps_that_were_passed_by(monkeypatch):
    """What grew 1.5-fold at each step has grown more than threefold over three of them."""
    theta = nn.Parameter(torch.zeros(2))
    watched = guard(optim.Adam([theta], lr=1e-6), Script(needs=("norm",)))
    for step in range(24):
        theta.grad = torch.full((2,), 1.5 ** (step / 2))
        with monkeypatch.context() as patched:
            patched.setattr("foreshock.guarding.hook.is_captured", lambda step=step: step % 3 > 0)
            watched.optimizer.step()
    assert all(math.isnan(one.growth) for one in watched.policy.seen)


def test_a_transformer_far_above_the_edge_is_caught_in_time():
    """‖g‖² grows threefold at each step; when the displacement shows the edge the loss has doubled."""
    [config] = [one for one in suite("full") if one.name == "transformer-rules-high"]
    free, guarded = (train(config, 0, method(name)) for name in ("adam", "guard-secant"))
    assert free.worst_ratio > 50
    assert guarded.worst_ratio < 2
    assert guarded.mean_loss < free.mean_loss
