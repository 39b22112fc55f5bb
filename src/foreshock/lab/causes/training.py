"""Train a scenario under a monitor, and say what its spike was made of."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from foreshock.explain import CAUSES, Name
from foreshock.lab.causes.disturbances import DISTURBANCES, Disturbance, density_loss
from foreshock.lab.causes.scenario import FRESH, Scenario, draw_scenario
from foreshock.lab.jobs import write_json
from foreshock.lab.tasks.families import build_task
from foreshock.lab.tasks.task import Task
from foreshock.monitor import Monitor
from foreshock.runlog import read_run
from foreshock.runlog.values import recorded_losses
from foreshock.spikes import LossEvent, detect_events

_ATTEMPTS = 30
_WITHIN = 60  # steps from what is done to the onset of its spike
_AHEAD = 1000  # draws of batches between those of one fork and those of another
_SNAPSHOTS = 25  # steps from one snapshot to the next, of trainings that spike by themselves
_FORK = 40  # steps at least that a fork goes back
_REMOVED = 0.4  # of a rise: what is left of a spike that freezing v removes
_RECOVERY, _LEVEL = 60, 60  # steps after a spontaneous spike, and before it
_NATURAL = ("preconditioner lag", "landscape", "gradient noise")
_AVERAGED = 8  # batches that a fork without their noise averages
_DRAWS, _LATER = 3, 100  # forks with other batches, and steps by which theirs may come later


class NoSpikeError(RuntimeError):
    """None of the draws of a cause has a spike of it."""


@dataclass(frozen=True)
class Snapshot:
    """A model and its optimizer before a step."""

    step: int
    model: nn.Module
    optimizer: dict[str, Any]


Judge = Callable[[Scenario, LossEvent, list[Snapshot]], bool]


def record_spike(cause: Name, index: int, folder: Path) -> Path:
    """Draw trainings until one has a spike of this cause; keep its log and what is true of it.

    Args:
        cause: One of `foreshock.explain.CAUSES`.
        index: Which draw.
        folder: Where logs go, one folder each.

    Returns:
        The file with the truth: scenario, onset.

    Raises:
        NoSpikeError: If no draw spikes.
    """
    for attempt in range(_ATTEMPTS):
        scenario = draw_scenario(cause, index, attempt)
        run = folder / scenario.name
        shutil.rmtree(run, ignore_errors=True)
        event = train_scenario(scenario, run)
        if event is not None:
            truth = {"scenario": scenario.as_mapping(), "onset": event.onset, "split": scenario.split}
            return write_json(truth, run / "truth.json")
    raise NoSpikeError(f"none of {_ATTEMPTS} draws of {cause!r} spiked; its draw is too mild")


def train_scenario(scenario: Scenario, run: Path, accepts: Judge | None = None) -> LossEvent | None:
    """Train a scenario; return its spike if it has one where it should.

    Args:
        scenario: The training.
        run: Folder of its log.
        accepts: Of a training that spikes by itself, whether a spike is the one; by default, whether forks
            show that it has the cause of the scenario.
    """
    torch.manual_seed(scenario.seed)
    task = make_task(scenario)
    make = DISTURBANCES.get(scenario.cause, Disturbance)
    disturbance = make(scenario, task)
    parameters = disturbance.parameters()
    optimizer = make_optimizer(scenario, parameters)
    monitor = Monitor(task.model, optimizer, disturbance.loss_fn, run=run, budget=scenario.budget)
    snapshots: list[Snapshot] = []
    losses: list[float] = []
    for step in range(scenario.steps):
        if scenario.cause in _NATURAL and step % _SNAPSHOTS == 0:
            state = copy.deepcopy(optimizer.state_dict())
            snapshots.append(Snapshot(step, copy.deepcopy(task.model), state))
        if scenario.cause == "lost optimizer state" and step == scenario.at:
            optimizer, monitor = resume(scenario, task, optimizer, monitor, run=run)
        losses.append(advance(step, disturbance, optimizer, monitor))
        if scenario.cause in _NATURAL and _is_over(losses):
            break
    monitor.close()
    return _spike_of(scenario, run, snapshots, accepts or _is_caused)


def _is_over(losses: list[float]) -> bool:
    """Return whether a training that spikes by itself has spiked, and had time to recover."""
    then = len(losses) - _RECOVERY
    return then > _LEVEL and losses[then] > 3 * median(losses[then - _LEVEL : then])


def advance(
    step: int, disturbance: Disturbance, optimizer: Optimizer, monitor: Monitor | None, *, averaged: int = 1
) -> float:
    """Take a step of a training; return its loss.

    Args:
        step: Step number.
        disturbance: What is done to it.
        optimizer: Its optimizer.
        monitor: Who watches it.
        averaged: Batches whose gradients are averaged.
    """
    task = disturbance.task
    disturbance.before(step, optimizer)
    optimizer.zero_grad()
    losses = []
    for _ in range(averaged):
        drawn: Any = next(task.batches)
        batch = disturbance.batch(step, drawn)
        loss = disturbance.loss_fn(task.model, batch)
        (loss / averaged).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    disturbance.gradients(step)
    if monitor is not None:
        monitor.observe(batch, loss)
    optimizer.step()
    return float(torch.stack(losses).mean())


def make_task(scenario: Scenario) -> Task:
    """Return the task of a scenario.

    Args:
        scenario: The training.
    """
    seed, size = scenario.seed % 2**20, scenario.batch_size
    family = scenario.family.removeprefix("density ")
    label_loss = "ce" if seed % 2 and size else "mse"
    options: dict[str, dict[str, Any]] = {
        "mlp": {"points": 64, "width": 60},
        "deep mlp": {"points": 128, "width": 32, "layers": 3},
        "cnn": {"images": 80 if size else 40, "loss": label_loss},
        "lstm": {"examples": 128, "hidden": 16},
        "transformer": {"sequences": 64, "length": 6, "vocabulary": 12, "layers": 1, "width": 24},
    }
    plain = family.removeprefix("deep ")
    task = build_task(plain, batch_size=size, seed=seed, **options[family])
    if not scenario.family.startswith("density"):
        return task
    model = task.model
    model.register_parameter("log_scale", nn.Parameter(torch.zeros(())))
    return Task(task.name, model, density_loss, task.batches, size, task.examples)


def make_optimizer(scenario: Scenario, parameters: list[nn.Parameter]) -> Optimizer:
    """Return the optimizer of a scenario.

    Args:
        scenario: The training.
        parameters: What it trains.
    """
    if scenario.optimizer == "sgd":
        return SGD(parameters, lr=scenario.lr, momentum=scenario.betas[0])
    made = Adam if scenario.optimizer == "adam" else AdamW
    return made(parameters, lr=scenario.lr, betas=scenario.betas, eps=scenario.eps)


def resume(
    scenario: Scenario, task: Task, optimizer: Optimizer, monitor: Monitor, *, run: Path, **options: Any
) -> tuple[Optimizer, Monitor]:
    """Go on as a script does that saved the model and the monitor, but not all of the optimizer.

    Args:
        scenario: The training.
        task: Its model and batches.
        optimizer: Its optimizer until now.
        monitor: Its monitor until now.
        run: Folder of the log.
        **options: Of the new monitor.

    Returns:
        Another optimizer and another monitor.
    """
    state, saved = monitor.state_dict(), copy.deepcopy(optimizer.state_dict())
    monitor.close()
    other = make_optimizer(scenario, list(task.model.parameters()))
    if scenario.how["kind"] == "v":
        for one in saved["state"].values():
            one["exp_avg_sq"].zero_()
        other.load_state_dict(saved)
    resumed = Monitor(task.model, other, task.loss_fn, run=run, budget=scenario.budget, **options)
    resumed.load_state_dict(state)
    return other, resumed


def _spike_of(scenario: Scenario, run: Path, snapshots: list[Snapshot], accepts: Judge) -> LossEvent | None:
    steps, losses = recorded_losses(read_run(run))
    events = detect_events(steps.tolist(), losses.tolist())
    if scenario.cause in _NATURAL:
        return next((event for event in events if accepts(scenario, event, snapshots)), None)
    first = scenario.at if scenario.at else 0
    end = scenario.at + _WITHIN if scenario.at else scenario.steps
    # What happens before hides what is done, and one that is not the first is half an echo.
    early = [event for event in events if event.onset < first and event.end >= first - 60]
    found = [event for event in events if first <= event.onset <= end and event.kind != "climb"]
    return found[0] if found and not early else None


def _is_caused(scenario: Scenario, event: LossEvent, snapshots: list[Snapshot]) -> bool:
    """Return whether a spontaneous spike is what it should be, found out by forks from before it.

    Where v is held at what it was some fifty steps before, a spike that the decay of v makes does not come;
    one of the landscape comes all the same. Without a second moment there is nothing to freeze. One that the
    noise of batches makes does not come where each step averages eight of them, and comes with other batches:
    else it was made by one batch.
    """
    if event.kind not in ("spike", "divergence", "non-finite") or event.onset < 60:
        return False
    if scenario.optimizer == "sgd" and scenario.cause != "gradient noise":
        return scenario.cause == "landscape"
    fork = fork_before(event, snapshots)
    if fork is None:
        return False
    if scenario.cause == "gradient noise":
        fork = replace(fork, end=fork.end + _LATER)
        # Other batches first: most draws fail there, and averaging costs eight times as much.
        others = (fork_spikes(scenario, fork, seed=seed) for seed in range(1, _DRAWS + 1))
        return sum(others) >= 2 and not fork_spikes(scenario, fork, seed=1, averaged=_AVERAGED)
    return fork_spikes(scenario, fork, frozen=True) != (scenario.cause == "preconditioner lag")


@dataclass(frozen=True)
class Fork:
    """A part of a training that is trained again, with something different.

    Attributes:
        snapshot: Where it begins.
        end: Step at which it ends.
        bar: Loss from which on it spikes too.
    """

    snapshot: Snapshot
    end: int
    bar: float


def fork_before(event: LossEvent, snapshots: list[Snapshot]) -> Fork | None:
    """Return the part of a training that has a spike, from forty steps before it on; None without a snapshot.

    Args:
        event: The spike.
        snapshots: What was kept, in order.
    """
    before = [one for one in snapshots if one.step <= event.onset - _FORK]
    if not before:
        return None
    return Fork(before[-1], event.end + _FORK, event.reference + _REMOVED * event.rise)


def fork_spikes(
    scenario: Scenario, fork: Fork, *, seed: int = 0, averaged: int = 1, frozen: bool = False
) -> bool:
    """Return whether the loss of a fork reaches its bar, or is not finite.

    Args:
        scenario: The training.
        fork: Its part.
        seed: How many draws of batches it is ahead of the training: another number gives other batches.
        averaged: Batches whose gradients each step averages.
        frozen: Whether v is held at what it was at the beginning.
    """
    task = make_task(scenario)
    task.model.load_state_dict(fork.snapshot.model.state_dict())
    for _ in range(_AHEAD * seed):
        next(task.batches)
    optimizer = make_optimizer(scenario, list(task.model.parameters()))
    optimizer.load_state_dict(copy.deepcopy(fork.snapshot.optimizer))
    moments = {p: state["exp_avg_sq"].clone() for p, state in optimizer.state.items()} if frozen else {}
    disturbance = Disturbance(scenario, task)
    for step in range(fork.snapshot.step, fork.end):
        for p, moment in moments.items():
            optimizer.state[p]["exp_avg_sq"].copy_(moment)
        if not advance(step, disturbance, optimizer, None, averaged=averaged) < fork.bar:
            return True
    return False


def all_spikes(count: int) -> list[tuple[Name, int]]:
    """Return spikes of both halves, each as cause and number of the draw.

    Args:
        count: How many of each cause.
    """
    return [(cause, index) for cause in CAUSES for index in range(count)]


def half_of_spikes(count: int, split: str) -> list[tuple[Name, int]]:
    """Return the spikes of one half, each as cause and number of the draw; all causes by turns.

    Args:
        count: How many of each cause both halves have together.
        split: ``"development"`` or ``"held-out"``.
    """
    indices = range(1, count, 2) if split == "development" else range(FRESH, FRESH + count, 2)
    return [(cause, index) for index in indices for cause in CAUSES]
