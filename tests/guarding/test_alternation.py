"""How a gradient lies to those of the two steps before: turned round above the edge, not by new data."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import guard
from foreshock.guarding.alternation import SAMPLED, GradientSamples
from foreshock.guarding.parameters import columns
from foreshock.stability import growth_factor
from guarding.test_growth import far_above_the_edge
from guarding.training import Script


def cosine(one, other):
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


@pytest.mark.parametrize("shapes", [[(3,), (2, 5), ()], [(SAMPLED,)]])
def test_small_tensors_are_compared_as_wholes(shapes):
    torch.manual_seed(0)
    keys, samples = [torch.zeros(shape) for shape in shapes], GradientSamples()
    steps = [[torch.randn(shape) for shape in shapes] for _ in range(4)]
    flat = [torch.cat([one.reshape(-1) for one in step]) for step in steps]
    found = [samples.follow(keys, step, columns) for step in steps]
    assert all(math.isnan(one) for one in (*found[0], found[1].with_second_last))
    for i in (2, 3):
        assert found[i].with_last == pytest.approx(cosine(flat[i], flat[i - 1]), abs=1e-6)
        assert found[i].with_second_last == pytest.approx(cosine(flat[i], flat[i - 2]), abs=1e-6)


def test_samples_of_a_single_process_are_what_sums_over_several_would_give():
    """Alone nothing is computed at the first of several steps; a resumed run goes on with the same bits."""
    torch.manual_seed(0)
    keys = [torch.zeros(shape) for shape in [(3,), (SAMPLED * 3, 2), ()]]
    alone, together, resumed = GradientSamples(), GradientSamples(), GradientSamples()
    for step in range(5):
        gradients = [torch.randn_like(key) for key in keys]
        found = alone.follow(keys, gradients)
        # One sum over all coordinates, or one of each tensor's: they are rounded apart.
        assert together.follow(keys, gradients, columns) == pytest.approx(found, abs=1e-6, nan_ok=True)
        assert str(resumed.follow(keys, gradients)) == str(found)
        assert math.isnan(found.with_last) == (step == 0)
        state, resumed = resumed.state_dict(keys), GradientSamples()
        resumed.load_state_dict(state, keys)


def test_a_sample_of_parameters_of_other_sizes_is_not_gone_on_from():
    key, samples = torch.zeros(4), GradientSamples()
    samples.follow([key], [torch.ones(4)])
    state, other, resumed = samples.state_dict([key]), torch.zeros(6), GradientSamples()
    resumed.load_state_dict(state, [other])
    assert math.isnan(resumed.follow([other], [torch.ones(6)]).with_last)


def test_large_matrices_are_sampled_over_rows_and_columns():
    """Gradients that differ in one column, or in one row, are seen to differ."""
    torch.manual_seed(0)
    weight = torch.zeros(256, 256)
    for place in ((slice(None), 8), (8, slice(None))):
        one = torch.zeros(256, 256)
        one[place] = 1.0
        samples = GradientSamples()
        samples.follow([weight], [one], columns)
        assert samples.follow([weight], [-one], columns).with_last == pytest.approx(-1)


def test_gradients_of_other_parameters_are_not_compared():
    one, other, samples = torch.zeros(3), torch.zeros(3), GradientSamples()
    samples.follow([one], [torch.ones(3)], columns)
    assert math.isnan(samples.follow([other], [torch.ones(3)], columns).with_last)
    samples.forget()
    assert math.isnan(samples.follow([other], [torch.ones(3)], columns).with_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_types_are_compared_in_float32(dtype):
    weight, samples = torch.zeros(4, dtype=dtype), GradientSamples()
    samples.follow([weight], [torch.ones(4, dtype=dtype)], columns)
    assert samples.follow([weight], [-torch.ones(4, dtype=dtype)], columns).with_last == pytest.approx(-1)


def test_above_the_edge_the_gradient_turns_round_at_each_step():
    """The cosines are those of g₀ + (−ρ)ᵗu, with g₀ = 1e-3 and ρ of the frozen recursion."""
    _, watched = far_above_the_edge(Script(needs=("secant",)), steps=52)
    factor = growth_factor(1.5, beta1=0.9)
    known = [one for one in watched.policy.seen if not math.isnan(one.with_second_last)]
    assert len(known) >= 3
    for one in known:
        part = math.sqrt(one.squared_gradient - 1e-6)  # of the unstable weight
        vectors = [torch.tensor([part * (-factor) ** -back, 1e-3]) for back in range(3)]
        assert one.with_last == pytest.approx(cosine(vectors[0], vectors[1]), abs=0.02)
        assert one.with_second_last == pytest.approx(cosine(vectors[0], vectors[2]), abs=0.02)
    assert known[-1].with_last < -0.99
    assert known[-1].with_second_last > 0.99


def growing(optimizer, theta, steps):
    for step in steps:
        theta.grad = torch.tensor([(-2.0) ** step, 1.0])
        optimizer.step()


def test_a_resumed_guard_goes_on_with_the_same_gradients():
    theta = nn.Parameter(torch.zeros(2))
    watched = guard(optim.Adam([theta], lr=1e-6), Script(needs=("secant",)))
    growing(watched.optimizer, theta, range(5))
    kept, state = copy.deepcopy(watched.state_dict()), copy.deepcopy(watched.optimizer.state_dict())
    growing(watched.optimizer, theta, range(5, 6))
    again = guard(optim.Adam([theta], lr=1e-6), Script(needs=("secant",)))
    again.optimizer.load_state_dict(state)
    again.load_state_dict(kept)
    growing(again.optimizer, theta, range(5, 6))
    assert again.policy.seen[-1].with_second_last == watched.policy.seen[-1].with_second_last > 0.9

    del kept["engine"]["measurer"]["gradients"]  # as earlier versions saved it
    again.load_state_dict(kept)
    growing(again.optimizer, theta, range(5, 6))
    assert math.isnan(again.policy.seen[-1].with_last)


def test_a_gradient_that_does_not_grow_begins_anew():
    theta = nn.Parameter(torch.zeros(1))
    watched = guard(optim.Adam([theta], lr=1e-6), Script(needs=("secant",)))
    for power in (0, 1, 2, 2, 3, 4):  # where ‖g‖² doubles, the steps after that are looked at as well
        theta.grad = torch.tensor([1.2**power])
        watched.optimizer.step()
    known = [
        (not math.isnan(one.with_last), not math.isnan(one.with_second_last)) for one in watched.policy.seen
    ]
    assert known[-3:] == [(False, False), (False, False), (True, False)]
