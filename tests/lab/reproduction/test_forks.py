"""Forks continue the very run; measures do what they say."""

import copy

import numpy as np
import pytest
import torch

from foreshock.lab.reproduction.experiments.interventions import InterventionConfig, peak
from foreshock.lab.reproduction.forks import INTERVENTIONS, AlarmCuts, Cut, Fork, continue_from
from foreshock.lab.reproduction.plan import Plan
from foreshock.lab.reproduction.recording import record
from foreshock.lab.tasks import OptimizerConfig, build_optimizer

PLAN = Plan(
    name="tiny",
    family="mlp",
    options={"points": 20, "width": 8},
    optimizer=OptimizerConfig("adam", 0.02),
    steps=40,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A recorded run and a cut at step 10 that was forced."""
    cuts = []

    def cut(moment):
        if moment.step == 10:
            state = copy.deepcopy((moment.model.state_dict(), moment.optimizer.state_dict()))
            norm = sum(p.grad.square().sum() for p in moment.model.parameters()).sqrt().item()
            cuts.append(Cut(10, moment.loss, norm, *state))

    trace = record(PLAN, 1, tmp_path_factory.mktemp("run"), watchers=(cut,))
    return trace.column("loss").values, cuts[0]


def test_doing_nothing_repeats_the_run_bit_by_bit(run):
    losses, cut = run
    assert continue_from(PLAN, 1, cut, INTERVENTIONS["none"], steps=30).tolist() == losses[10:].tolist()


@pytest.mark.parametrize("name", [name for name in INTERVENTIONS if name not in ("none", "guard")])
def test_each_measure_changes_the_run_and_leaves_the_cut_alone(run, name):
    losses, cut = run
    if name == "amsgrad":
        # From the very start of a run v grows: only once it falls does the largest differ.
        cut = copy.deepcopy(cut)
        for state in cut.optimizer["state"].values():
            state["exp_avg_sq"] *= 100
    before = copy.deepcopy(cut)
    first = continue_from(PLAN, 1, cut, INTERVENTIONS[name], steps=30)
    again = continue_from(PLAN, 1, cut, INTERVENTIONS[name], steps=30)
    assert first.tolist() == again.tolist()
    assert first[0] == losses[10]
    other = continue_from(PLAN, 1, cut, INTERVENTIONS["none"], steps=30)
    assert first.tolist() != other.tolist()
    for key, tensor in before.model.items():
        assert torch.equal(tensor, cut.model[key])


def fork():
    task = PLAN.build_task(0)
    optimizer = build_optimizer(task.model, PLAN.optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        task.loss_fn(task.model, next(task.batches)).backward()
        optimizer.step()
    return Fork(task.model, optimizer, gradient_norm=0.01)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("beta2-0.9", "betas", (0.9, 0.9)),
        ("beta2-0.99", "betas", (0.9, 0.99)),
        ("epsilon-0.1", "eps", 0.1),
        ("epsilon-1e-3", "eps", 1e-3),
        ("amsgrad", "amsgrad", True),
    ],
)
def test_measures_that_set_an_option(name, key, value):
    made = fork()
    assert INTERVENTIONS[name].begin(made) is None
    assert all(group[key] == value for group in made.optimizer.param_groups)


def test_a_shorter_memory_leaves_v_hat_as_it_is():
    made = fork()

    def corrected():
        [beta2] = {group["betas"][1] for group in made.optimizer.param_groups}
        states = (made.optimizer.state[parameter] for parameter in made.model.parameters())
        return beta2, [state["exp_avg_sq"] / (1 - beta2 ** float(state["step"])) for state in states]

    _, before = corrected()
    assert INTERVENTIONS["beta2-0.9-kept"].begin(made) is None
    beta2, after = corrected()
    assert beta2 == 0.9
    assert all(torch.allclose(one, other, rtol=1e-4) for one, other in zip(before, after, strict=True))


def test_a_halved_rate_comes_back_after_a_hundred_steps():
    made = fork()
    before = INTERVENTIONS["rate-half-100"].begin(made)
    rates = []
    for step in (0, 99, 100):
        before(step)
        rates.append(made.optimizer.param_groups[0]["lr"])
    assert rates == [0.01, 0.01, 0.02]
    for_good = fork()
    INTERVENTIONS["rate-half"].begin(for_good)(10_000)
    assert for_good.optimizer.param_groups[0]["lr"] == 0.01


def test_v_is_held_at_the_squared_gradient():
    made = fork()
    for parameter in made.model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
        made.optimizer.state[parameter]["exp_avg_sq"].fill_(1.0)[:1] = 100.0
    INTERVENTIONS["hold-v"].begin(made)(0)
    for parameter in made.model.parameters():
        v = made.optimizer.state[parameter]["exp_avg_sq"]
        assert (v[0] == 100).all()
        assert (v[1:] == 9).all()


def test_the_norm_is_clipped_to_the_median():
    made = fork()
    before = INTERVENTIONS["clip"].begin(made)
    before(0)
    norm = sum(p.grad.square().sum() for p in made.model.parameters()).sqrt()
    assert norm.item() == pytest.approx(0.01, rel=1e-4)


def test_the_guard_hooks_into_the_fork_alone():
    made, other = fork(), fork()
    INTERVENTIONS["guard"].begin(made)
    assert made.optimizer._optimizer_step_pre_hooks
    assert not other.optimizer._optimizer_step_pre_hooks


def test_alarms_are_rises_through_the_edge():
    class Seen:
        def __init__(self, step, ratio):
            made = fork()
            self.model, self.optimizer, self.step, self.ratio, self.loss = (
                made.model,
                made.optimizer,
                step,
                ratio,
                1.0,
            )

    watch = AlarmCuts(start=2)
    for step, ratio in enumerate([1.1, 0.5, 0.9, 1.0, 0.995, 1.2, 0.9, float("nan"), 1.0]):
        watch(Seen(step, ratio))
    assert [cut.step for cut in watch.cuts] == [3, 8]
    assert watch.cuts[0].level == 1.0
    assert watch.cuts[0].gradient_norm > 0


def test_a_run_that_overflows_has_an_infinite_peak(run):
    _, cut = run
    assert peak(np.array([cut.level, 2 * cut.level]), cut) == 2
    assert peak(np.array([cut.level, np.nan]), cut) == np.inf


def test_forks_that_are_too_short_are_refused():
    with pytest.raises(ValueError, match="after must be an integer of at least 550"):
        InterventionConfig(after=100)
