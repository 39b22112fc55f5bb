"""A guard that does not wait for the device: in mini-batches ‖g‖ is known one step later."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from functools import partial

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import guard, parameters, step_measurer
from guarding import test_growth
from guarding.training import WAYS, Script, asked

BEGUN = 60
"""Steps after which gradients are known to be those of mini-batches."""


class Fed:
    """An optimizer whose gradients are given, and its guard."""

    def __init__(self, policy="auto", *, wait=False, way=None, limit=None):
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.ones(6))
        self.optimizer = optim.Adam([self.weight], lr=1e-4, **(way or {}))
        self.guard = guard(self.optimizer, policy, wait=wait)
        self.generator, self.limit = torch.Generator().manual_seed(1), limit

    def step(self, norm):
        direction = torch.randn(6, generator=self.generator)
        self.weight.grad = direction / direction.norm() * norm
        if self.limit is not None:
            self.guard.clipped(nn.utils.clip_grad_norm_([self.weight], self.limit), max_norm=self.limit)
        self.optimizer.step()

    def noisy(self, steps, size=1.0):
        for step in range(steps):
            self.step(size * (1.0, 1.5, 0.8)[step % 3])

    @property
    def raises(self):
        return [action.step for action in self.guard.actions if action.remedy == "raise all"]


def steps_with(monkeypatch, *places):
    """Return the list to which a guard adds the places at which the host waited for the device."""
    waited = []
    for module, name in places:
        was = getattr(module, name)

        def noted(*given, was=was, name=name):
            waited.append(name)
            return was(*given)

        monkeypatch.setattr(module, name, noted)
    return waited


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_in_mini_batches_the_host_waits_at_one_step_of_eight(way, monkeypatch):
    waited = steps_with(monkeypatch, (step_measurer, "fetch"), (parameters, "updates_made"))
    for wait, most in ((True, 80 + 2 * 10), (False, 2 * 10)):
        fed = Fed(wait=wait, way=WAYS[way])
        fed.noisy(BEGUN)
        waited.clear()
        fed.noisy(80)
        assert len(waited) <= most, wait
        assert len(waited) >= 10  # the secant is measured all the same
        assert not fed.guard.actions


def test_with_full_batches_all_is_as_ever(monkeypatch):
    """Far above the edge it acts on the same steps, and makes the same weights bit by bit."""
    made = []
    for wait in (True, False):
        monkeypatch.setattr(test_growth, "guard", partial(guard, wait=wait))
        distances, watched = test_growth.far_above_the_edge("auto", steps=120, rise=100)
        made.append((distances, [(one.step, one.factor) for one in watched.actions]))
    assert made[0][1]
    assert made[0] == made[1]


def test_after_a_raise_along_a_direction_it_waits_for_eight_steps(monkeypatch):
    waited = steps_with(monkeypatch, (step_measurer, "fetch"))
    counts = []
    for remedy in ("raise along", "raise all"):
        script = Script({BEGUN + 8: asked(remedy, 1.01, along="gradient")}, needs=("secant", "norm"))
        script.exact_above = 0.9
        fed = Fed(script)
        fed.noisy(BEGUN + 12)
        assert [action.remedy for action in fed.guard.actions] == [remedy]
        waited.clear()
        fed.noisy(4)
        counts.append(len(waited))
    assert counts[0] >= 4 > counts[1]


def test_numbers_are_those_of_the_step_before():
    script = Script(needs=("secant", "norm"))
    script.exact_above = 0.9
    fed = Fed(script)
    norms = [(1.0, 1.5, 0.8)[step % 3] for step in range(BEGUN + 40)]
    for norm in norms:
        fed.step(norm)
    told = fed.guard.policy.seen
    seen = {one.step: one for one in told}
    assert [one.step for one in told] == sorted(seen)  # each step once, in order
    assert set(range(1, BEGUN + 39)) <= set(seen)
    for step, signals in seen.items():
        assert signals.squared_gradient == pytest.approx(norms[step] ** 2)
        assert signals.updates == step + 1
    assert told[-1].lag == pytest.approx(1, rel=0.5)


def test_a_rise_is_met_one_step_later():
    found = []
    for wait in (True, False):
        fed = Fed("rising", wait=wait)
        fed.noisy(150, size=10.0)
        fed.noisy(300, size=1.0)  # v lags
        for rise in range(12):
            fed.step(1.3**rise * (1.0, 1.5, 0.8)[rise % 3])
        found.append(fed.raises)
    waiting, late = found
    assert waiting
    assert late
    assert min(waiting) <= min(late) <= min(waiting) + 1


def test_an_outlier_passes_and_the_next_step_knows_of_it():
    fed = Fed()
    fed.noisy(BEGUN + 80)
    while fed.guard._engine._measurer._wait < 3:
        fed.noisy(1)
    before = fed.weight.detach().clone()
    fed.step(100.0)
    assert torch.equal(fed.weight.grad.norm().round(), torch.tensor(100.0))
    assert not torch.equal(before, fed.weight)
    assert not fed.guard.actions  # not known yet
    fed.step(1.0)
    assert not [one for one in fed.guard.actions if one.remedy == "clip"]  # nor clipped afterwards
    fed.step(1.0)
    assert fed.guard._engine.memory.growth.rise < 2
    waiting = Fed(wait=True)
    waiting.noisy(BEGUN + 80)
    waiting.step(100.0)
    assert [one.remedy for one in waiting.guard.actions] == ["clip"]


def test_what_was_clipped_counts_unclipped_one_step_later():
    script = Script(needs=("secant", "norm"))
    script.exact_above = 0.9
    fed = Fed(script)
    for step in range(BEGUN + 20):
        norm = (1.0, 1.5, 0.8)[step % 3]
        direction = torch.randn(6, generator=fed.generator, dtype=torch.float64)
        fed.weight.grad = (direction / direction.norm() * norm).float()
        fed.guard.clipped(nn.utils.clip_grad_norm_([fed.weight], 0.1), max_norm=0.1)
        fed.weight.grad.mul_(1.0)  # changed after the report: it says nothing of the norm
        fed.optimizer.step()
    squares = list(fed.guard._engine.memory.growth._squares)
    assert max(squares) == pytest.approx(1.5**2, rel=0.01)
    assert min(squares) == pytest.approx(0.8**2, rel=0.01)


@pytest.mark.parametrize("read", [float, lambda norm: norm], ids=["number", "tensor"])
@pytest.mark.parametrize("limit", [10.0, 0.5], ids=["never", "always"])
def test_a_reported_norm_is_not_computed_and_a_number_is_known_at_once(read, limit, monkeypatch):
    """A tensor that its device still computes is read one step later, with the factor of clipping."""
    computed = steps_with(monkeypatch, (step_measurer, "norms"))
    script = Script(needs=("secant", "norm"))
    script.exact_above = 0.9
    fed = Fed(script)
    for step in range(BEGUN + 60):
        if step == BEGUN + 10:
            computed.clear()
        norm = (1.0, 1.5, 0.8)[step % 3]
        direction = torch.randn(6, generator=fed.generator)
        fed.weight.grad = direction / direction.norm() * norm
        fed.guard.clipped(read(nn.utils.clip_grad_norm_([fed.weight], limit)), max_norm=limit)
        fed.optimizer.step()
    assert len(computed) <= 2 + 50 // 8  # with the secants, to compare it
    last = fed.guard.policy.seen[-1]
    assert last.step == BEGUN + 59 or (read is not float and last.step == BEGUN + 58)
    assert last.squared_gradient == pytest.approx(min((1.0, 1.5, 0.8)[last.step % 3], limit) ** 2, rel=1e-5)
    squares = list(fed.guard._engine.memory.growth._squares)  # as they were before clipping
    assert max(squares) == pytest.approx(1.5**2, rel=0.01)
    assert min(squares) == pytest.approx(0.8**2, rel=0.01)
    assert fed.guard._engine._measurer._reported.agreed


def test_without_a_secant_a_reported_norm_is_compared_all_the_same(monkeypatch):
    computed = steps_with(monkeypatch, (step_measurer, "norms"))
    fed, late = Fed("rising"), 0
    for step in range(BEGUN + 80):
        if step == BEGUN:
            computed.clear()
        fed.weight.grad = torch.full((6,), (1.0, 1.5, 0.8)[step % 3])
        fed.guard.clipped(nn.utils.clip_grad_norm_([fed.weight], 1.0), max_norm=1.0)
        fed.optimizer.step()
        late += step >= BEGUN and fed.guard._engine._measurer.is_late
    assert len(computed) == 10
    assert late == 70


def test_a_secant_after_late_clipping_is_that_of_unclipped_gradients():
    """Clipping of changing strength would falsify them."""
    seen = []
    for wait in (True, False):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.ones(6))
        optimizer, script = optim.Adam([weight], lr=1e-3), Script(needs=("secant", "norm"))
        script.exact_above = 0.9
        watched = guard(optimizer, script, wait=wait)
        for step in range(BEGUN + 40):
            weight.grad = weight.detach() * torch.arange(1.0, 7.0) + (0.0, 3.0, 1.0)[step % 3]
            watched.clipped(
                nn.utils.clip_grad_norm_([weight], 0.1 + 0.1 * (step % 5)), max_norm=0.1 + 0.1 * (step % 5)
            )
            optimizer.step()
        seen.append([one.secant for one in watched.policy.seen if not math.isnan(one.secant)])
    assert len(seen[0]) > 10
    assert seen[1] == pytest.approx(seen[0][: len(seen[1])])
    assert len(seen[1]) >= len(seen[0]) - 1


def test_curvature_that_a_monitor_measured_is_acted_on_at_once():
    fed = Fed()
    fed.noisy(BEGUN + 20)
    while fed.guard._engine._measurer._wait < 3:
        fed.noisy(1)
    fed.guard.record_curvature(2.0, torch.tensor([1.0, 0, 0, 0, 0, 0]))
    now = fed.guard.step
    fed.noisy(1)
    assert [action.step for action in fed.guard.actions] == [now]


@pytest.mark.parametrize("needs", [("secant", "norm"), ("norm",)], ids=" ".join)
@pytest.mark.parametrize("limit", [None, 1.0], ids=["", "clipped"])
@pytest.mark.parametrize("cut", range(BEGUN + 12, BEGUN + 22))
def test_a_resumed_run_goes_on_bit_by_bit(cut, limit, needs):
    """What is known one step later in one run is so in the other: it is acted on at the same steps."""
    decisions = {step: asked("raise all", 1.02) for step in range(BEGUN + 10, BEGUN + 40)}
    made = []
    for resumed in (False, True):
        script = Script(decisions, needs=needs)
        script.exact_above = 0.9
        fed = Fed(script, limit=limit)
        fed.noisy(cut)
        if resumed:
            state, optimizer_state = fed.guard.state_dict(), fed.optimizer.state_dict()
            fed.guard.detach()
            fed.optimizer.load_state_dict(optimizer_state)
            fed.guard = guard(fed.optimizer, script, wait=False)
            fed.guard.load_state_dict(state)
        fed.noisy(30)
        made.append((fed.weight.detach().clone(), fed.optimizer.state[fed.weight]["exp_avg_sq"].clone()))
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])


@pytest.mark.parametrize("change", ["state", "frozen", "group", "gone"])
def test_what_was_of_other_parameters_is_dropped(change):
    fed = Fed()
    other = nn.Parameter(torch.ones(2))
    fed.optimizer.add_param_group({"params": [other]})
    for step in range(BEGUN + 20):
        other.grad = torch.full((2,), 0.1 + 0.01 * step % 3)
        fed.noisy(1)
    if change == "state":
        fed.optimizer.load_state_dict(fed.optimizer.state_dict())
    elif change == "frozen":
        other.requires_grad_(False)
    elif change == "group":
        fed.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    else:
        fed.optimizer.state.pop(other)
        other.grad = None
    fed.noisy(20)
    assert "failed" not in str(fed.guard.summary())
    assert math.isfinite(fed.guard.lag) or change == "state"


def test_a_copy_does_not_wait_either(monkeypatch):
    fed = copy.deepcopy(Fed())
    fed.noisy(BEGUN)
    waited = steps_with(monkeypatch, (step_measurer, "fetch"))
    fed.noisy(80)
    assert len(waited) <= 20


def test_clipping_alone_cannot_be_late():
    optimizer = optim.Adam([nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="leave out wait=False"):
        guard(optimizer, "outlier", wait=False)
    guard(optimizer, "outlier")


CHANGES = ("none of one", "unfrozen", "group", "states")
"""What may be different at a step from the one before."""


def clipped_training(wait, *, change="", at=-1, read=lambda norm: norm, resumed=None):
    """Clip with changing strength, change something at a step, and return the policy, which saw it all."""
    torch.manual_seed(0)
    # Two bundles: of one, nothing would be known where a part of it has no gradient.
    weights = [nn.Parameter(torch.ones(2**16 + 1)), small := nn.Parameter(torch.ones(6))]
    optimizer, script = optim.Adam(weights, lr=1e-3), Script(needs=("secant", "norm"))
    script.exact_above = 0.9
    watched = guard(optimizer, script, wait=wait)
    for step in range(at + 6 if at >= 0 else BEGUN + 40):
        if resumed is not None and step == at:
            state = watched.state_dict()
            watched.detach()
            watched = guard(optimizer, script, wait=resumed)
            watched.load_state_dict(state)
        small.requires_grad_(not (change == "unfrozen" and BEGUN - 5 <= step < at))
        for weight in weights:
            gradient = weight.detach() * (1 + torch.arange(weight.numel()) % 6) + (0.0, 3.0, 1.0)[step % 3]
            weight.grad = gradient if weight.requires_grad else None
        if step == at and change == "none of one":
            small.grad = None
        if step == at and change == "group":
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
        if step == at and change == "states":
            state = watched.state_dict()
            optimizer.load_state_dict(optimizer.state_dict())
            watched.load_state_dict(state)
        limit = 0.1 + 0.1 * (step % 5)
        total = nn.utils.clip_grad_norm_([one for one in weights if one.grad is not None], limit)
        watched.clipped(read(total), max_norm=limit)
        total.mul_(7.0)  # it is the loop's own
        optimizer.step()
    assert "failed" not in str(watched.summary())
    return watched.policy


def secants(policy):
    return {one.step: one.secant for one in policy.seen if not math.isnan(one.secant)}


@pytest.mark.parametrize("change", CHANGES)
def test_how_the_last_gradient_was_clipped_is_known_where_something_changed(change):
    """Else the first secant after the change would compare a clipped gradient with one that is not."""
    for at in range(BEGUN + 10, BEGUN + 18):  # the secant is measured at one of eight steps
        waiting, late = (clipped_training(wait, change=change, at=at) for wait in (True, False))
        expected = secants(waiting)
        assert secants(late) == pytest.approx({step: expected[step] for step in secants(late)}, rel=1e-4)
        # Whether it was an outlier as well.
        assert [one.step for one in late.seen[:-3]] == [
            one.step for one in waiting.seen[: len(late.seen) - 3]
        ]


def test_a_run_that_goes_on_with_waiting_knows_how_the_last_gradient_was_clipped():
    for at in range(BEGUN + 10, BEGUN + 18):
        waiting, resumed = (clipped_training(wait, at=at, resumed=True) for wait in (True, False))
        assert secants(resumed) == pytest.approx(secants(waiting), rel=1e-4)


@pytest.mark.parametrize(
    "read", [lambda norm: norm.reshape(1), lambda norm: norm.double(), lambda norm: norm.requires_grad_()]
)
def test_a_reported_tensor_may_have_any_shape_and_type_of_a_number(read):
    late = clipped_training(False, read=lambda norm: read(norm.clone()))
    expected = secants(clipped_training(True))
    assert secants(late) == pytest.approx({step: expected[step] for step in secants(late)}, rel=1e-4)


def test_the_last_report_counts():
    fed = Fed()
    fed.noisy(BEGUN)
    while fed.guard._engine._measurer._wait:
        fed.noisy(1)
    fed.guard.clipped(torch.tensor(10.0), max_norm=1.0)
    fed.guard.clipped(1.0, max_norm=2.0)
    fed.noisy(1)
    assert fed.guard._engine.memory.clips.last == 1.0


def test_a_state_of_a_guard_that_is_late_goes_through_a_file(tmp_path):
    fed = Fed()
    fed.noisy(BEGUN)
    while not fed.guard._engine._measurer.is_late:
        fed.noisy(1)
    torch.save(fed.guard.state_dict(), tmp_path / "guard.pt")
    state = torch.load(tmp_path / "guard.pt", weights_only=True)
    assert type(state["engine"]["measurer"]["late"]) is tuple
    fed.guard.load_state_dict(state)
    assert fed.guard.state_dict()["engine"]["measurer"]["late"] == state["engine"]["measurer"]["late"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_reported_with_its_own_step(value):
    fed = Fed()
    fed.noisy(BEGUN + 20)
    while fed.guard._engine._measurer._wait < 3:
        fed.noisy(1)
    now = fed.guard.step
    fed.step(value)
    fed.noisy(1)
    assert [(one.step, one.remedy) for one in fed.guard.actions] == [(now, "none")]


def test_what_was_done_late_is_reported_where_the_coming_step_fails(monkeypatch):
    told = []
    script = Script({BEGUN + 20: asked("raise all", 1.5)}, needs=("norm",))
    fed = Fed(script)
    fed.guard.add_callback(told.append)
    fed.noisy(BEGUN + 21)
    assert fed.guard._engine._measurer.is_late
    moment = fed.optimizer.state[fed.weight]["exp_avg_sq"]
    before = moment.clone()

    def failing(*_, **__):
        raise KeyError("on purpose")

    with monkeypatch.context() as broken:
        broken.setattr(step_measurer.StepMeasurer, "measure", failing)
        fed.noisy(1)
    assert moment.sum() > 2 * before.sum()
    assert [(one.step, one.remedy) for one in told] == [(BEGUN + 21, "raise all")]
    assert "on purpose" in str(fed.guard.summary())
    assert fed.guard.step == BEGUN + 22


@pytest.mark.parametrize("wait", [True, False])
def test_gradients_of_a_step_that_raised_are_not_kept_alive(wait, monkeypatch):
    fed = Fed(wait=wait)
    fed.noisy(BEGUN + 20)
    while fed.guard._engine._measurer._wait < 3:
        fed.noisy(1)

    def out_of_memory(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(optim.Adam, "_init_group", out_of_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            fed.step(1.0)
    gradient = weakref.ref(fed.weight.grad)
    fed.weight.grad = None
    gc.collect()
    assert gradient() is None
