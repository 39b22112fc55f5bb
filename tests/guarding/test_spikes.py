"""Runs that spike by themselves, with a guard and without: every spike is reproduced before it is removed."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn, optim

from foreshock.guarding import guard
from foreshock.lab.tasks import build_task
from foreshock.monitor.monitor import Monitor
from foreshock.runlog import read_run
from foreshock.spikes import detect_spikes


def spikes(losses, *, factor=3.0, smooth=1):
    values = np.convolve(losses, np.ones(smooth) / smooth)[: len(losses)]
    return [spike for spike in detect_spikes(range(len(losses)), values.tolist()) if spike.height >= factor]


def full_batch(policy, *, steps=1300):
    """Train the network of sin x + sin 4x; return losses and guard."""
    task = build_task("mlp", batch_size=None, seed=0, points=50, width=100)
    optimizer = optim.Adam(task.model.parameters(), lr=0.01)
    watched = None if policy is None else guard(optimizer, policy)
    losses = []
    for _, batch in zip(range(steps), task.batches, strict=False):
        optimizer.zero_grad()
        loss = task.loss_fn(task.model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, watched


def late_loss(losses):
    """Return the mean logarithm of the loss over the second half."""
    return float(np.log(losses[len(losses) // 2 :]).mean())


@pytest.fixture(scope="module")
def unguarded(perturbed):
    return perturbed(lambda: full_batch(None)[0])


@pytest.mark.training
@pytest.mark.parametrize("policy", ["secant", "auto"])
def test_full_batch_spikes_vanish_and_the_loss_is_no_worse(perturbed, unguarded, policy):
    unguarded.at_least(4, lambda losses: len(spikes(losses)) >= 1, seen=spikes)
    guarded = perturbed(lambda: full_batch(policy))
    guarded.at_least(4, lambda run: not spikes(run[0]), seen=lambda run: spikes(run[0]))
    guarded.at_least(4, lambda run: 0 < run[1].summary().share < 0.06, seen=lambda run: run[1].summary())
    gains = [
        late_loss(plain) - late_loss(losses)
        for plain, (losses, _) in zip(unguarded.each, guarded.each, strict=True)
    ]
    assert sum(gain > 0 for gain in gains) >= 4, gains


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_a_quadratic_spikes_with_adam_and_not_with_a_guard(beta1):
    """½θ² in float64: v decays until 1/√v̂ passes the edge, θ grows by orders of magnitude, v recovers.

    One start: the recursion is that of one number, and heights are compared by orders of magnitude.
    """
    largest = {}
    for policy in (None, "secant"):
        theta = nn.Parameter(torch.ones(1, dtype=torch.float64))
        rate = 0.15 if beta1 == 0 else 0.01
        optimizer = optim.Adam([theta], lr=rate, betas=(beta1, 0.99), eps=1e-30)
        if policy is not None:
            guard(optimizer, policy)
        trail = []
        for _ in range(3000):
            theta.grad = theta.detach().clone()
            optimizer.step()
            trail.append(abs(theta.item()))
        low = np.minimum.accumulate(trail)
        largest[policy] = float(np.max(np.array(trail) / low))
    assert largest[None] > 10
    assert largest["secant"] < max(3.0, largest[None] ** 0.5)


STEPS = 2000


def mini_batch(policy, *, monitored, steps, folder=None):
    task = build_task("mlp", batch_size=25, seed=0, points=50, layers=2, width=50)
    optimizer = optim.Adam(task.model.parameters(), lr=0.01)
    watched = None if policy is None else guard(optimizer, policy)
    monitor = None
    if monitored:
        monitor = Monitor(
            task.model, optimizer, task.loss_fn, probe_every=10, full_batch=False, guard=watched, run=folder
        )
    losses = []
    for _, batch in zip(range(steps), task.batches, strict=False):
        optimizer.zero_grad()
        loss = task.loss_fn(task.model, batch)
        loss.backward()
        if monitor is not None:
            monitor.observe(batch, loss)
        elif watched is not None:
            watched.measure(task.model, task.loss_fn, batch)
        optimizer.step()
        losses.append(loss.item())
    return losses, watched


def tall(losses):
    return spikes(losses, factor=8.0, smooth=5)


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("monitored", [True, False])
def test_spikes_of_mini_batches_fall_with_pairs(perturbed, monitored, tmp_path):
    plain = perturbed(lambda: mini_batch(None, monitored=False, steps=STEPS)[0])
    plain.at_least(4, lambda losses: len(tall(losses)) >= 1, seen=tall)
    folders = (tmp_path / str(start) for start in itertools.count())

    def guarded():
        folder = next(folders)
        return *mini_batch("auto", monitored=monitored, steps=STEPS, folder=folder), folder

    runs = perturbed(guarded)
    runs.at_least(4, lambda run: not tall(run[0]), seen=lambda run: tall(run[0]))
    runs.at_least(4, lambda run: run[1].summary().share < 0.05, seen=lambda run: run[1].summary())
    for _, watched, folder in runs.each if monitored else ():
        logged = read_run(folder).records["guard"]
        assert [row["step"] for row in logged] == [action.step for action in watched.actions]
        assert {row["remedy"] for row in logged} <= {"raise all", "raise along"}


@pytest.mark.training
@pytest.mark.parametrize(
    ("learning_rate", "settled", "width", "size", "bad"),
    [
        (0.01, 1500, 16, 8, {0}),
        (0.03, 780, 32, 30, {0}),  # ‖g‖ is slightly above what it was at about that time, and hardly noisy
        (0.01, 1500, 16, 8, {0, 1}),
        (0.01, 1500, 16, 1, {0, 1, 2}),
        (0.01, 1500, 16, 30, {0, 2, 4, 5}),
    ],
)
def test_corrupted_batches_are_clipped_wherever_they_come(
    perturbed, learning_rate, settled, width, size, bad
):
    """They surge where v lags, and have any secant and any angle: raised v would let the loss jump.

    One alone, or several of the same data, in a row or with usual ones among them.
    """
    places = 50 if len(bad) == 1 else 20

    def outcomes():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
        inputs = torch.randn(64, 4)
        targets = torch.sin(inputs.sum(1, keepdim=True))
        run = model, (optimizer := optim.Adam(model.parameters(), lr=learning_rate)), guard(optimizer)

        def step(run, noise=0.0):
            model, optimizer, _ = run
            optimizer.zero_grad()
            (model(inputs) - targets - noise).square().mean().backward()
            optimizer.step()
            return (model(inputs) - targets).square().mean().item()

        found = []
        for at in range(settled + places):
            before = step(run)
            if at < settled:
                continue
            twin, generator = copy.deepcopy(run), torch.Generator().manual_seed(at)
            peak = max(
                step(twin, size * torch.randn(64, 1, generator=generator) if after in bad else 0.0)
                for after in range(max(bad) + 9)
            )
            clipped = {one.step - at - 1 for one in twin[2].actions if one.remedy == "clip"}
            found.append((clipped >= bad, peak / before))
        return found

    runs = perturbed(outcomes)
    runs.at_least(4, lambda found: sum(clipped for clipped, _ in found) == places, seen=lambda found: found)
    runs.at_least(4, lambda found: max(peak for _, peak in found) < 3, seen=lambda found: found)


def test_a_monitor_lets_the_curvature_policy_act_on_the_measured_sharpness(tmp_path):
    """A quadratic with an eigenvalue past the edge: v is raised until the ratio is the threshold.

    One start of fifteen steps in float64: what is asserted is a closed form of the weights of one step.
    """
    hessian = torch.diag(torch.tensor([200.0, 1.0], dtype=torch.float64))
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    loss_fn = lambda net, batch: 0.5 * net.weight[0] @ batch @ net.weight[0]  # noqa: E731
    optimizer = optim.Adam(model.parameters(), lr=0.05, betas=(0.0, 0.999))
    with Monitor(
        model, optimizer, loss_fn, probe_every=1, full_batch=True, guard="curvature", run=tmp_path
    ) as monitor:
        for step in range(15):
            optimizer.zero_grad()
            loss = loss_fn(model, hessian)
            loss.backward()
            if step == 12:
                state = optimizer.state[model.weight]
                state["exp_avg_sq"].mul_(1e-4)
            forecast = monitor.observe(hessian, loss)
            ratio = forecast.stability_ratio
            gradient = model.weight.grad.clone()
            optimizer.step()
            if step == 12:
                after = (state["exp_avg_sq"] / (1 - 0.999**13)).sqrt() + 1e-8
                held = float((hessian.diag() / after * 0.05 / 2).max())
    actions = [action for action in monitor.guard.actions if action.step == 12]
    assert gradient.shape == (1, 2)
    assert ratio > 0
    [action] = actions
    assert action.value > 0.9
    assert held == pytest.approx(0.9, rel=2e-2)  # λ is good to half a percent, and ends as the larger of two
    logged = read_run(tmp_path).records["guard"]
    assert [row["step"] for row in logged] == [action.step for action in monitor.guard.actions]
    assert math.isfinite(logged[0]["value"])
