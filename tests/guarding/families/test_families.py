"""A raise makes torch's own step use the wanted v, whatever the optimizer and its way of stepping."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import guard
from foreshock.guarding.families.family import find_family
from foreshock.guarding.families.slots import read_slots
from foreshock.preconditioner import find_reader, read_preconditioner
from guarding.training import ADAMS, OTHERS, WAYS, Script, asked, data, network, squared, train, weights

STATE = {"Adamax": "exp_inf", "RMSprop": "square_avg"}


def moments(optimizer, name):
    return [state[name].clone() for state in optimizer.state.values()]


def raised_and_plain(make, factor):
    """Return two copies of a training after the same step, one with v raised before it."""
    pairs = []
    for raised in (False, True):
        model, batch = network(dtype=torch.float64), data(dtype=torch.float64)
        optimizer = make(model.parameters())
        train(model, optimizer, batch, 20)
        optimizer.zero_grad()
        (squared(model, batch) * 3).backward()
        if raised:
            family = find_family(optimizer)
            for slot in read_slots(optimizer):
                for moment, wanted in family.raised(slot, factor):
                    moment.copy_(wanted)
        optimizer.step()
        pairs.append(optimizer)
    return pairs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ADAMS)
def test_adams_use_the_wanted_second_moment(name, way):
    plain, raised = raised_and_plain(lambda p: ADAMS[name](p, **WAYS[way]), 2.5)
    key = "max_exp_avg_sq" if name == "amsgrad" else "exp_avg_sq"
    for before, after in zip(moments(plain, key), moments(raised, key), strict=True):
        torch.testing.assert_close(after, 2.5 * before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["adam", "amsgrad"])
def test_a_raise_by_nothing_changes_nothing(name):
    """Under amsgrad v is below its maximum, to which it must not be lifted."""
    plain, raised = raised_and_plain(ADAMS[name], 1.0)
    for key in ("exp_avg_sq", *(["max_exp_avg_sq"] if name == "amsgrad" else [])):
        for before, after in zip(moments(plain, key), moments(raised, key), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [name for name in OTHERS if name not in ("adafactor", "rmsprop-centered")])
def test_other_families_use_the_wanted_second_moment(name):
    plain, raised = raised_and_plain(OTHERS[name], 2.5)
    key = STATE.get(type(plain).__name__, "exp_avg_sq")
    wanted = 2.5**0.5 if key == "exp_inf" else 2.5
    for before, after in zip(moments(plain, key), moments(raised, key), strict=True):
        torch.testing.assert_close(after, wanted * before, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.Adam(p, betas=(0.9, 0.0)),
        lambda p: optim.Adamax(p, betas=(0.9, 0.0)),
        lambda p: optim.RMSprop(p, alpha=0.0),
    ],
)
def test_without_a_memory_there_is_nothing_to_raise(make):
    """Of a gradient that is zero, v_{t−1} would be 0/0."""
    results = []
    for decisions in ({}, {5: asked("raise all", 2.0), 7: asked("raise along", 2.0)}):
        model, batch = network(), data()
        optimizer = make(model.parameters())
        guard(optimizer, Script(decisions))
        with torch.no_grad():
            model[2].weight[0].zero_()
            model[2].bias[0] = batch[1][:, 0].mean()
        train(model, optimizer, (batch[0] * torch.tensor([1.0, 1.0, 0.0]), batch[1]), 10)
        results.append(weights(model))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_centered_rmsprop_uses_the_wanted_variance():
    """D² is v − ḡ² there, of which v is a multiple where gradients hardly change."""
    plain, raised = raised_and_plain(OTHERS["rmsprop-centered"], 2.5)
    for before, after in zip(plain.state.values(), raised.state.values(), strict=True):
        mean = before["grad_avg"].square()
        wanted = 2.5 * (before["square_avg"] - mean)
        torch.testing.assert_close(after["square_avg"] - mean, wanted, rtol=1e-10, atol=1e-16)


def test_adafactor_estimates_what_is_wanted():
    plain, raised = raised_and_plain(OTHERS["adafactor"], 2.5)
    for before, after in zip(plain.state.values(), raised.state.values(), strict=True):
        key = "variance" if "variance" in before else "col_var"
        torch.testing.assert_close(after[key], 2.5 * before[key], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [*ADAMS, *OTHERS])
def test_the_metric_is_that_of_the_preconditioner_reader(name):
    """A⁻¹ = 2D/(cη) as the curvature engine has it, once the bias correction of c is over."""
    make = {**ADAMS, **OTHERS}[name]
    model, batch = network(dtype=torch.float64), data(dtype=torch.float64)
    optimizer = make(model.parameters())
    train(model, optimizer, batch, 200)
    optimizer.zero_grad()
    squared(model, batch).backward()
    root = read_preconditioner(optimizer).scale_root()
    metric = find_family(optimizer).metric(read_slots(optimizer))
    mine = torch.cat(
        [(r / d).sqrt().flatten() for d, r in zip(metric.denominators, metric.rates, strict=True)]
    )
    torch.testing.assert_close(mine, root, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "nadam", "radam", "adamax", "rmsprop-centered"])
def test_complex_parameters_are_guarded_as_the_pairs_of_real_ones_that_they_are(name):
    make = {**ADAMS, **OTHERS}[name]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    matrix = torch.randn(6, 4, 2, generator=generator, dtype=torch.float64)
    runs = []
    for is_complex in (False, True):
        weight = nn.Parameter(torch.view_as_complex(start.clone()) if is_complex else start.clone())
        optimizer = make([weight])
        watched = guard(optimizer, Script({15: asked("raise along", 2.0), 17: asked("clip", 0.5)}))
        for _ in range(25):
            optimizer.zero_grad()
            values = weight if is_complex else torch.view_as_complex(weight)
            (torch.view_as_complex(matrix) @ values - 1).abs().square().mean().backward()
            optimizer.step()
        assert watched.summary().notes == ()
        end = weight.detach()
        runs.append((torch.view_as_real(end) if is_complex else end, watched.policy.seen))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-10, atol=0)
    secants = [[one.secant for one in seen] for _, seen in runs]
    assert secants[0] == pytest.approx(secants[1], rel=1e-8, nan_ok=True)


REFUSED = {
    "sgd": (lambda p: optim.SGD(p, lr=0.1), "no second moment to raise"),
    "adagrad": (lambda p: optim.Adagrad(p), "never falls"),
    "adadelta": (lambda p: optim.Adadelta(p), "itself an average"),
    "sparse": (lambda p: optim.SparseAdam(p), "SparseAdam"),
    "lbfgs": (lambda p: optim.LBFGS(p), "LBFGS can't be guarded: its step is not diagonal"),
    "asgd": (lambda p: optim.ASGD(p), "ASGD can't be guarded: it has a step of its own"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_guarded_is_refused_with_the_reason(name):
    make, reason = REFUSED[name]
    with pytest.raises(TypeError, match=reason):
        guard(make(list(network().parameters())))


def test_an_overridden_step_is_not_guarded_and_a_mere_subclass_is(monkeypatch):
    class Renamed(optim.AdamW):
        pass

    class Other(optim.AdamW):
        def step(self, closure=None):
            return None

    guard(Renamed(network().parameters())).detach()
    reader = find_reader(optim.AdamW(network().parameters()))
    for readers in ({}, {Other: reader}):
        monkeypatch.setattr("foreshock.preconditioner.registry._READERS", readers)
        with pytest.raises(TypeError) as refused:
            guard(Other(network().parameters()))
        assert str(refused.value) == (
            "Other can't be guarded: it has a step of its own, and how to raise its second moment is not "
            "known. What can be: Adafactor, Adam, AdamW, Adamax, NAdam, RAdam, RMSprop, and subclasses of "
            "them that don't override step"
        )


def test_a_parameter_in_half_precision_is_measured_in_single():
    weight = nn.Parameter(torch.randn(300).bfloat16())
    optimizer = optim.Adam([weight], lr=0.01)
    for _ in range(3):
        weight.grad = copy.deepcopy(weight.detach())
        optimizer.step()
    metric = find_family(optimizer).metric(read_slots(optimizer))
    assert metric.denominators[0].dtype == torch.float32
