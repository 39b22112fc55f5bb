"""The norm that a training loop reports of its clipped gradients, and when the guard goes by it."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn, optim
from torch.nn.utils import clip_grad_norm_, get_total_norm

from foreshock.guarding import guard, step_measurer, sums
from foreshock.guarding.gradient_norms import ReportedNorm
from foreshock.stability import adam_threshold
from guarding.training import Script, data, network, squared, train, weights

MAX = 0.05  # below the norm of these networks' gradients on nearly all steps
ROUNDING = 1e-6  # relative, of ‖g‖² in float32
FIELDS = ("step", "updates", "secant", "squared_gradient", "lag", "growth")


@pytest.fixture
def measured(monkeypatch):
    """One entry for each time that norms are computed."""
    calls = []
    real = step_measurer.norms

    def counted(gradients):
        calls.append(len(gradients))
        return real(gradients)

    monkeypatch.setattr(step_measurer, "norms", counted)
    return calls


def clip(model, watched, **_):
    watched.clipped(clip_grad_norm_(model.parameters(), MAX), max_norm=MAX)


def clipped_training(clipping=clip, *, steps=40, needs=("norm",), dtype=torch.float32, believe=True):
    """Train with clipping; return the guard and the weights. Without `believe` all norms are measured."""
    model = network(dtype=dtype)
    eps = 1e-8 if dtype.itemsize >= 4 else 1e-4  # the usual ε is zero in float16
    watched = guard(optim.AdamW(model.parameters(), lr=0.01, eps=eps), Script(needs=needs))
    if not believe:
        watched._engine._measurer.report_norm = lambda norm: None
    for step in range(steps):
        train(
            model,
            watched.optimizer,
            data(dtype=dtype),
            1,
            before=partial(clipping, model, watched, step=step),
        )
    assert watched.summary().notes == ()
    return watched, weights(model)


def seen(watched, names=FIELDS):
    return [[str(getattr(one, name)) for name in names] for one in watched.policy.seen]


def agreed(watched):
    return watched._engine._measurer._reported.agreed


def test_what_is_reported_is_measured_at_every_eighth_step_only(measured):
    """At the first step there is no state, and nothing is measured."""
    watched, _ = clipped_training(steps=1 + 4 * 8, needs=("norm",))
    assert len(watched.policy.seen) == 32
    assert len(measured) == 4


def test_a_far_secant_leaves_nothing_to_measure_between(measured):
    """It is measured at every eighth step, with the norm in the same transfer."""
    model = network()
    watched = guard(optim.AdamW(model.parameters(), lr=1e-4), "secant")
    for _ in range(1 + 10 * 8):
        train(model, watched.optimizer, data(), 1, before=partial(clip, model, watched))
    assert len(measured) <= 12  # nine, and a few before there is a secant
    measured.clear()
    train(model, watched.optimizer, data(), 16)
    assert len(measured) == 16


@pytest.mark.parametrize("needs", [("norm",), ("secant",), ("norm", "preconditioned gradient")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_reported_is_what_would_be_measured(needs, dtype):
    told, own = (clipped_training(needs=needs, dtype=dtype, believe=believe)[0] for believe in (True, False))
    assert agreed(told)
    assert agreed(own) is None
    for field in ("squared_gradient", "lag", "growth", "secant", "preconditioned_gradient"):
        given, found = ([getattr(one, field) for one in run.policy.seen] for run in (told, own))
        assert given == pytest.approx(found, rel=ROUNDING, nan_ok=True), field


def test_a_norm_below_the_limit_is_the_norm_itself(measured):
    def hardly(model, watched, **_):
        watched.clipped(clip_grad_norm_(model.parameters(), 1e9), max_norm=1e9)

    watched, _ = clipped_training(hardly)
    own, _ = clipped_training(lambda *_, **__: None)
    given, found = ([one.squared_gradient for one in run.policy.seen] for run in (watched, own))
    assert given == pytest.approx(found, rel=ROUNDING)
    assert len(measured) == 5 + 39


def _of_a_part(model, watched, **_):
    watched.clipped(clip_grad_norm_(model[0].parameters(), MAX), max_norm=MAX)


def _of_two_models(model, watched, **_):
    other = nn.Parameter(torch.ones(3))
    other.grad = torch.ones(3)
    watched.clipped(clip_grad_norm_([*model.parameters(), other], MAX), max_norm=MAX)


def _before_unscaling(model, watched, **_):
    watched.clipped(1024 * clip_grad_norm_(model.parameters(), 1e9), max_norm=1e9)


def _scaled_beyond_the_reach_of_versions(model, watched, **_):
    clip(model, watched)
    for parameter in model.parameters():
        parameter.grad.data.mul_(0.5)  # .data has a counter of its own


@pytest.mark.parametrize(
    "clipping",
    [_of_a_part, _of_two_models, _before_unscaling, _scaled_beyond_the_reach_of_versions],
    ids=lambda clipping: clipping.__name__,
)
@pytest.mark.parametrize("needs", [("norm",), ("secant",)])
def test_a_norm_of_other_gradients_is_noticed_and_never_used(clipping, needs):
    told, ends = clipped_training(clipping, needs=needs)
    assert agreed(told) is False
    own, same_ends = clipped_training(clipping, needs=needs, believe=False)
    assert seen(told) == seen(own)
    assert all(map(torch.equal, ends, same_ends))


def _changed(model, watched, **_):
    clip(model, watched)
    for parameter in model.parameters():
        parameter.grad.mul_(0.5)


def _one_changed(model, watched, **_):
    clip(model, watched)
    model[2].bias.grad[0] = 1.0


def _exchanged(model, watched, **_):
    clip(model, watched)
    model[2].bias.grad = model[2].bias.grad * 0.5


def _left_out(model, watched, **_):
    clip(model, watched)
    model[2].bias.grad = None


def _reported_before_clipping(model, watched, **_):
    norm = get_total_norm([one.grad for one in model.parameters()])
    watched.clipped(norm, max_norm=MAX)
    clip_grad_norm_(model.parameters(), MAX)


CHANGES = [_changed, _one_changed, _exchanged, _left_out, _reported_before_clipping]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("rarely", [False, True], ids=["always", "at one step"])
def test_gradients_that_are_changed_after_the_report_are_measured(change, rarely):
    """Also where that happens on a step between two comparisons."""

    def clipping(model, watched, step):
        (change if not rarely or step == 21 else clip)(model, watched)

    told, _ = clipped_training(clipping)
    own, _ = clipped_training(clipping, believe=False)
    assert agreed(told) is (True if rarely else None)
    given, found = ([one.squared_gradient for one in run.policy.seen] for run in (told, own))
    assert given[20] == pytest.approx(found[20], rel=1e-6)  # of step 21
    assert given == pytest.approx(found, rel=1e-4)  # rounding has grown in the weights since
    if not rarely:
        assert seen(told) == seen(own)


def test_what_becomes_wrong_is_noticed_within_eight_steps_and_for_good(measured):
    def clipping(model, watched, step):
        (_of_a_part if 18 <= step < 26 else clip)(model, watched)

    assert agreed(clipped_training(clipping, steps=18)[0])
    measured.clear()
    assert agreed(clipped_training(clipping, steps=26)[0]) is False
    before = len(measured)
    assert agreed(clipped_training(clipping, steps=46)[0]) is False
    assert len(measured) == 2 * before + 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_nothing_is_believed(dtype):
    """Clipping rounds each coordinate to three digits, and the norm too."""
    told, own = (clipped_training(dtype=dtype, believe=believe)[0] for believe in (True, False))
    assert agreed(told) is None
    assert len(told.policy.seen) == 39
    assert seen(told) == seen(own)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_where_norm_or_gradients_are_not_finite_the_measurement_decides(value, measured):
    def clipping(model, watched, step):
        if step in (10, 11):
            model[0].weight.grad[0, 0] = value
        clip(model, watched)

    def train_over(steps):
        model = network()
        watched = guard(optim.Adam(model.parameters(), lr=0.01, fused=True), Script(needs=("norm",)))
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=10**6)
        for step in range(steps):
            watched.optimizer.zero_grad()
            scaler.scale(squared(model, data())).backward()
            clipping(model, watched, step)
            scaler.step(watched.optimizer)
            scaler.update()
        return watched

    watched = train_over(30)
    assert [(one.step, one.remedy) for one in watched.actions] == [(10, "none")]
    assert agreed(watched)
    assert all(math.isfinite(one.squared_gradient) for one in watched.policy.seen)
    measured.clear()
    assert len(train_over(10).policy.seen) == 9
    assert len(measured) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_no_report(value, measured):
    def clipping(model, watched, step):
        clip(model, watched)
        if step == 12:
            watched.clipped(value, max_norm=MAX)

    watched, _ = clipped_training(clipping)
    assert agreed(watched)
    assert all(math.isfinite(one.squared_gradient) for one in watched.policy.seen)
    assert len(measured) == 6  # that of step 12 besides


@pytest.mark.parametrize("unscaled", [True, False], ids=["unscaled", "scaled"])
def test_under_a_gradient_scaler_it_is_the_norm_of_what_was_clipped(unscaled, measured):
    """A fused optimizer divides the scale out itself, unless that was done to clip."""
    runs = []
    for believe in (True, False):
        model = network()
        optimizer = optim.AdamW(model.parameters(), lr=0.01, fused=True)
        watched = guard(optimizer, Script(needs=("norm",)))
        if not believe:
            watched._engine._measurer.report_norm = lambda norm: None
        scaler = torch.amp.GradScaler("cpu", init_scale=1000.0, growth_interval=5)
        measured.clear()
        for _ in range(33):
            optimizer.zero_grad()
            scaler.scale(squared(model, data())).backward()
            limit = MAX if unscaled else MAX * scaler.get_scale()
            if unscaled:
                scaler.unscale_(optimizer)
            watched.clipped(clip_grad_norm_(model.parameters(), limit), max_norm=limit)
            scaler.step(optimizer)
            scaler.update()
        assert len(measured) == (4 if believe else 32)
        runs.append([one.squared_gradient for one in watched.policy.seen])
    assert runs[0] == pytest.approx(runs[1], rel=ROUNDING)
    assert max(runs[0]) == pytest.approx(MAX**2, rel=1e-4)


@pytest.mark.parametrize("clipping", [clip, _of_a_part], ids=["believed", "refused"])
@pytest.mark.parametrize("cut", [12, 17])
def test_a_resumed_run_goes_on_bit_by_bit(clipping, cut):
    """It measures at its first step where the other did not, and goes by what was reported all the same."""
    through, ends = clipped_training(clipping, steps=30)
    half, _ = clipped_training(clipping, steps=cut)
    model = network()
    model.load_state_dict(_weights_after(clipping, cut))
    resumed = guard(optim.AdamW(model.parameters(), lr=0.01), Script(needs=("norm",)))
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    resumed.optimizer.load_state_dict(copy.deepcopy(half.optimizer.state_dict()))
    assert agreed(resumed) is (clipping is clip)
    for step in range(cut, 30):
        train(model, resumed.optimizer, data(), 1, before=partial(clipping, model, resumed, step=step))
    assert seen(resumed) == seen(through)[cut - 1 :]
    assert all(map(torch.equal, weights(model), ends))


def _weights_after(clipping, steps):
    _, ends = clipped_training(clipping, steps=steps)
    return dict(zip(network().state_dict(), ends, strict=True))


def test_a_guard_that_forgets_its_run_asks_anew():
    model = network()
    watched = guard(optim.AdamW(model.parameters(), lr=0.01), Script(needs=("norm",)))
    train(model, watched.optimizer, data(), 9, before=partial(_of_a_part, model, watched))
    assert agreed(watched) is False
    watched.optimizer.load_state_dict(copy.deepcopy(watched.optimizer.state_dict()))
    train(model, watched.optimizer, data(), 3, before=partial(clip, model, watched))
    assert agreed(watched)


def test_a_state_of_an_earlier_version_is_of_a_guard_that_took_no_reports():
    watched, _ = clipped_training(steps=12)
    state = watched.state_dict()
    del state["engine"]["measurer"]["agreed"]
    watched.load_state_dict(state)
    assert agreed(watched) is None


def test_where_sums_go_over_processes_nothing_is_taken(monkeypatch):
    monkeypatch.setattr(sums.Reduction, "_reduced", lambda self, values, *_: list(values))
    runs = []
    for believe in (True, False):
        model = network()
        watched = guard(optim.AdamW(model.parameters(), lr=0.01), Script(needs=("norm",)), group=object())
        if not believe:
            watched._engine._measurer.report_norm = lambda norm: None
        train(model, watched.optimizer, data(), 20, before=partial(clip, model, watched))
        assert agreed(watched) is None
        runs.append(seen(watched))
    assert runs[0] == runs[1]


def test_gradients_made_in_inference_mode_are_measured():
    """They have no counter of changes, and reading it is an error."""
    weight = nn.Parameter(torch.ones(3))
    watched = guard(optim.Adam([weight]), Script(needs=("norm",)))
    for _ in range(5):
        with torch.inference_mode():
            weight.grad = torch.full((3,), 2.0)
        watched.clipped(math.sqrt(12), max_norm=9.0)
        watched.optimizer.step()
    assert watched.summary().notes == ()
    assert [one.squared_gradient for one in watched.policy.seen] == pytest.approx([12.0] * 4)


def test_gradients_are_not_kept_alive_by_a_report():
    gradients = [torch.ones(2)]
    reported = ReportedNorm(agreed=True)
    reported.take(math.sqrt(2), gradients)
    assert reported.known(gradients) == math.sqrt(2)
    assert not any(isinstance(one, torch.Tensor) for pair in reported._versions for one in pair)


@pytest.mark.parametrize("policy", ["secant", "auto"])
@pytest.mark.parametrize("limit", [0.02, 1.0])
def test_the_same_is_done_with_a_reported_norm(policy, limit):
    """A weight above its edge, in float64: the guard acts long before rounding errors have grown."""
    done = []
    for believe in (True, False):
        theta = nn.Parameter(torch.tensor([1e-9, 0.0], dtype=torch.float64))
        optimizer = optim.Adam([theta], lr=0.1, betas=(0.9, 1 - 1e-12), eps=1e-300)
        moments = {"exp_avg": torch.zeros(2).double(), "exp_avg_sq": torch.ones(2).double()}
        optimizer.state[theta] = {"step": torch.tensor(1e13), **moments}
        watched = guard(optimizer, policy)
        if not believe:
            watched._engine._measurer.report_norm = lambda norm: None
        for step in range(60):
            curvature = adam_threshold(0.1, beta1=0.9) * (0.5 if step < 40 else 1.5)
            theta.grad = torch.stack([curvature * theta.detach()[0], torch.tensor(1e-3).double()])
            watched.clipped(clip_grad_norm_([theta], limit), max_norm=limit)
            optimizer.step()
        assert agreed(watched) is (True if believe else None)
        done.append(list(watched.actions))
    assert done[0]
    given, found = ([(one.step, one.remedy) for one in actions] for actions in done)
    assert given == found
    given, found = ([one.factor for one in actions] for actions in done)
    assert given == pytest.approx(found, rel=1e-9)


@pytest.mark.slow
def test_a_report_from_a_compiled_loop_compiles_nothing_at_each_step():
    model = network()
    watched = guard(optim.AdamW(model.parameters(), lr=0.01), Script(needs=("norm",)))

    def tell(norm):
        watched.clipped(norm, max_norm=MAX)
        return norm + 1

    torch.compiler.reset()
    compiled = torch.compile(tell, backend="eager")
    made = []
    for _ in range(12):
        train(
            model,
            watched.optimizer,
            data(),
            1,
            before=lambda: compiled(clip_grad_norm_(model.parameters(), MAX)),
        )
        made.append(torch._dynamo.utils.counters["frames"]["total"])
    torch.compiler.reset()
    assert agreed(watched)
    assert made[-1] == made[4]
