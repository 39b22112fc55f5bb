"""A raise makes torch's own step use the wanted v, whatever the optimizer and its way of stepping."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import re

import pytest
import torch
from torch import nn, optim

import foreshock
from foreshock.guarding import Secant, guard
from foreshock.guarding.families import find_family
from foreshock.guarding.parameters import read_slots
from foreshock.preconditioner import ParameterStep, Reader, SecondMoment, find_reader, read_preconditioner
from guarding.training import ADAMS, OTHERS, WAYS, Script, asked, data, network, squared, train, weights

STATE = {"Adamax": "exp_inf", "RMSprop": "square_avg"}


def slots_of(optimizer):
    """Return the slots as the guard of that optimizer reads them."""
    family = find_family(optimizer)
    return read_slots(optimizer, decoupled=family.reader.decoupled_decay, plain_adam=family.plain_adam)


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
            for slot in slots_of(optimizer):
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
    metric = find_family(optimizer).metric(slots_of(optimizer))
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
    "muon": (
        lambda p: optim.Muon([one for one in p if one.ndim == 2]),
        "Muon can't be guarded: .* guard the AdamW beside it on its own",
    ),
    "asgd": (lambda p: optim.ASGD(p), "ASGD can't be guarded: it has a step of its own"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_guarded_is_refused_with_the_reason(name):
    make, reason = REFUSED[name]
    if name == "muon" and not hasattr(optim, "Muon"):
        pytest.skip("this torch has no Muon")
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
    for readers in ({}, {Other: Reader(reader.step, reader.second_moment)}):
        monkeypatch.setattr("foreshock.preconditioner.registry._READERS", readers)
        with pytest.raises(TypeError) as refused:
            guard(Other(network().parameters()))
        assert str(refused.value) == (
            "Other can't be guarded: it has a step of its own, and how to raise its second moment is not "
            "known: say so in the raise_second_moment of its Reader, foreshock.register_preconditioner(cls, "
            "Reader(...)); if its step() calls that of AdamW and leaves the update as it is, "
            "foreshock.register_preconditioner(Other, torch.optim.AdamW) is enough. What can be: "
            "Adafactor, Adam, AdamW, Adamax, NAdam, RAdam, RMSprop, and "
            "subclasses of them that don't override step"
        )


class Counted(optim.AdamW):
    """An AdamW with a step of its own, which it takes within: every fifth time it is interrupted before."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        if self.calls % 5 == 0:
            raise InterruptedError
        return super().step(closure)


@pytest.mark.parametrize("with_closure", [False, True])
def test_a_step_within_a_step_is_guarded_once(monkeypatch, with_closure):
    monkeypatch.setattr("foreshock.preconditioner.registry._STEP_OF", {})
    foreshock.register_preconditioner(Counted, optim.AdamW)
    optim.AdamW(network().parameters())  # from its first object on torch calls hooks for AdamW.step, too
    found = []
    for cls in (Counted, optim.AdamW):
        model, batch = network(), data()
        optimizer = cls(model.parameters(), lr=0.01)
        # At no step that is interrupted: what is done before it stays.
        policy = Script({number: asked("raise all", 2.0) for number in range(1, 20, 4)})
        watched = guard(optimizer, policy)
        for number in range(1, 25):

            def closure(model=model, batch=batch, optimizer=optimizer):
                optimizer.zero_grad()
                loss = squared(model, batch)
                loss.backward()
                return loss

            if cls is optim.AdamW and number % 5 == 0:
                continue
            with contextlib.suppress(InterruptedError):
                if with_closure:
                    optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
        found.append(
            (
                torch.cat([one.flatten() for one in weights(model)]),
                [action.remedy for action in watched.actions],
                watched.step,
            )
        )
    assert found[0][1]
    assert found[0][2] == 20
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_a_parameter_in_half_precision_is_measured_in_single():
    weight = nn.Parameter(torch.randn(300).bfloat16())
    optimizer = optim.Adam([weight], lr=0.01)
    for _ in range(3):
        weight.grad = copy.deepcopy(weight.detach())
        optimizer.step()
    metric = find_family(optimizer).metric(slots_of(optimizer))
    assert metric.denominators[0].dtype == torch.float32


class FlatAdam(optim.Optimizer):
    """An Adam variant from outside: no bias correction, ε inside the root, decoupled decay, own names."""

    def __init__(self, params, lr=0.01, memory=0.99, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "memory": memory, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["step"], state["energy"] = 0, torch.zeros_like(parameter)
                    state["mean"] = torch.zeros_like(parameter)
                state["step"] += 1
                gradient, memory = parameter.grad, group["memory"]
                state["energy"].mul_(memory).add_(gradient.square(), alpha=1 - memory)
                state["mean"].lerp_(gradient, 0.1)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * state["mean"] / (state["energy"] + 1e-16).sqrt())


def read_flat(live):
    memory, gradient = live.option("memory"), live.used_gradient()
    energy = live.moment("energy") * memory + (1 - memory) * gradient.square()
    return ParameterStep(
        gradient=gradient,
        numerator=torch.lerp(live.moment("mean"), gradient, 0.1),
        denominator=(energy + 1e-16).sqrt(),
        learning_rate=live.learning_rate,
        momentum_factor=0.1 / 1.9,
        momentum_decay=0.9,
        decoupled_decay=live.option("weight_decay"),
    )


def raise_flat(live, factor):
    memory, energy = live.option("memory"), live.state["energy"]
    fresh = (1 - memory) * live.used_gradient().square()
    return [(energy, ((memory * energy + fresh) * factor - fresh) / memory)]


def flat_second_moment(state, group):
    return SecondMoment(state.get("energy"), group["memory"], 2**62)


FLAT = Reader(read_flat, flat_second_moment, raise_flat, decoupled_decay=True)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr("foreshock.preconditioner.registry._READERS", {})


@pytest.mark.parametrize("factor", [1.0, 1.5, 3.0])
def test_the_next_step_of_a_registered_optimizer_has_the_raised_denominator(registry, factor):
    foreshock.register_preconditioner(FlatAdam, FLAT)
    ends = []
    for decisions in ({}, {20: asked("raise all", factor)}):
        model, batch = network(dtype=torch.float64), data(dtype=torch.float64)
        optimizer = FlatAdam(model.parameters())
        watched = guard(optimizer, Script(decisions, needs=("secant",), scales_decay=False))
        train(model, optimizer, batch, 20)
        before = weights(model)
        train(model, optimizer, batch, 1)
        assert watched.summary().notes == ()
        assert math.isfinite(watched.policy.seen[-1].secant)
        kept = 1 - 0.01 * 0.1
        ends.append([after - kept * old for after, old in zip(weights(model), before, strict=True)])
    # θ_{t+1} − (1 − ηw)θ_t = −ηm/D, and √k on v is √k on D: `factor` is that on √v.
    for plain, raised in zip(*ends, strict=True):
        torch.testing.assert_close(raised * factor, plain, rtol=1e-9, atol=1e-14)


def test_a_raise_along_a_direction_brings_the_secant_of_a_registered_optimizer_to_the_threshold(registry):
    """A quadratic with one curvature: the direction is the only one, so that its D is what was asked for."""
    foreshock.register_preconditioner(FlatAdam, FLAT)
    theta = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = FlatAdam([theta], memory=0.95, weight_decay=0.0)
    watched = guard(optimizer, Secant(threshold=0.5))
    ratios = []
    for _ in range(600):
        theta.grad = 200.0 * theta.detach()
        optimizer.step()
        denominator = float((optimizer.state[theta]["energy"] + 1e-16).sqrt())
        ratios.append(0.1 / 1.9 * 0.01 / 2 * 200.0 / denominator)
    acted = [one.step for one in watched.actions]
    assert acted
    assert {one.remedy for one in watched.actions} == {"raise along"}
    assert [ratios[step] for step in acted] == pytest.approx([0.5] * len(acted), rel=1e-6)
    assert watched.lag > 0


def test_decoupled_decay_of_a_registered_optimizer_is_shortened(registry):
    foreshock.register_preconditioner(FlatAdam, FLAT)
    model, batch = network(), data()
    optimizer = FlatAdam(model.parameters())
    guard(optimizer, Script({20: asked("raise all", 2.0)}, needs=("pairs",), scales_decay=True))
    held = []
    optimizer.register_step_pre_hook(lambda one, *_: held.append(one.param_groups[0]["weight_decay"]))
    train(model, optimizer, batch, 22)
    assert held[:20] == [0.1] * 20
    assert held[20] == pytest.approx(0.05)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_a_registered_reader_of_adam_itself_counts(registry):
    """Without a raise, the built-in one is kept; with one, nothing is assumed of Adam any more."""
    optimizer = optim.Adam(network().parameters())
    built_in = find_reader(optimizer)
    foreshock.register_preconditioner(optim.Adam, Reader(built_in.step))
    assert find_family(optimizer).reader is built_in
    assert find_family(optimizer).plain_adam
    mine = Reader(built_in.step, built_in.second_moment, built_in.raise_second_moment)
    foreshock.register_preconditioner(optim.Adam, mine)
    assert find_family(optimizer).reader is mine
    assert not find_family(optimizer).plain_adam


def first_only(value):
    """Return a raise that is right for matrices, and writes a value into the state of the rest."""
    return lambda live, factor: (
        raise_flat(live, factor) if live.parameter.dim() == 2 else [(live.state["energy"], value(live))]
    )


@pytest.mark.parametrize("remedy", ["raise all", "raise along"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda live: torch.zeros(7), r"asks to write \(7,\) into a state of shape \(8,\)"),
        (lambda live: torch.tensor(3.0), r"asks to write \(\) into a state of shape \(8,\)"),
        (lambda live: 3.0, r"asks to write 3.0 into a state of shape \(8,\)"),
        (lambda live: torch.full_like(live.parameter, math.nan), "a second moment is finite"),
        (lambda live: torch.full_like(live.parameter, math.inf), "a second moment is finite"),
        (lambda live: -torch.ones_like(live.parameter), "numbers between -1 and .* not negative"),
    ],
)
def test_a_raise_that_is_impossible_of_one_parameter_leaves_all_as_they_were(
    registry, remedy, value, message
):
    results = []
    for guarded in (False, True):
        model = network(dtype=torch.float64)
        optimizer = FlatAdam(model.parameters())
        foreshock.register_preconditioner(
            FlatAdam, dataclasses.replace(FLAT, raise_second_moment=first_only(value))
        )
        watched = guard(optimizer, Script({12: asked(remedy, 2.0)})) if guarded else None
        train(model, optimizer, data(dtype=torch.float64), 15)
        results.append((*weights(model), *moments(optimizer, "energy")))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    [note] = watched.summary().notes
    assert re.search(message, note)
    assert watched.actions == []
