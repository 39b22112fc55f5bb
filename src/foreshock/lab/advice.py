"""Is advice worth following? Trainings that spike, advised from a window, and trained again from their start.

A training is recorded as a user would, with a monitor of default settings. From one of the snapshots that
were written before its alarms and spikes `foreshock.replay.advice` tries its candidates. What it advises is
followed from the first step on, from perturbed starts, and compared with the training as it was from as many.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from foreshock import Monitor
from foreshock.lab.jobs import write_json
from foreshock.lab.spikebench.suite import DEVELOPMENT, RunConfig, suite
from foreshock.lab.tasks import Training
from foreshock.recorder import Recorder, list_snapshots, load_snapshot
from foreshock.replay import Change, Loop, parse_change, replay
from foreshock.replay.advice import Advice, candidates, choose, choose_start
from foreshock.replay.outcome import ReplayOutcome, events_after, finite_or_none
from foreshock.replay.window import perturb, train
from foreshock.representation import changed

STEPS = 1000
"""A training ends here, if not before."""
WINDOW, REPEATS, STARTS = 400, 2, 3
SEEDS = (10, 11)
_SLOW = ("language", "addition")  # families that take several times as long a step


def advised_runs() -> list[tuple[str, int]]:
    """Return the trainings, by name and seed: those of SpikeBench's development half that should spike."""
    names = [
        config.name
        for config in suite("full")
        if config.split == DEVELOPMENT
        and config.role == "spiky"
        and config.available
        and config.family not in _SLOW
    ]
    return [(name, seed) for name in names for seed in SEEDS]


def follow_advice(name: str, seed: int, folder: Path) -> Path:
    """Record a training, have it advised, follow the advice, and write what it came to.

    Args:
        name: Name of the configuration.
        seed: Its seed.
        folder: Where to; the run is kept in a folder of its name.

    Returns:
        The file written.
    """
    torch.set_num_threads(1)
    config = _config(name)
    run = folder / f"{name}-{seed}"
    losses, norms = _record(config, seed, run)
    found: dict[str, Any] = {"name": name, "seed": seed, "group": config.group, "steps": len(losses)}
    snapshots = [load_snapshot(path) for path in list_snapshots(run)]
    if snapshots:
        chosen = snapshots[choose_start([one.step for one in snapshots], losses, WINDOW)]
        advice = _advise(config, seed, chosen, losses, norms)
        found |= {"from": chosen.step, "advice": advice.as_mapping()}
        if advice.chosen is not None:
            change = parse_change(advice.chosen.candidate.change)
            found |= {
                "as_it_was": _from_start(config, seed, Change()),
                "advised": _from_start(config, seed, change),
            }
    return write_json(finite_or_none(found), folder / f"{name}-{seed}.json")


def _config(name: str) -> RunConfig:
    [config] = [one for one in suite("full") if one.name == name]
    return changed(config, steps=min(config.steps, STEPS))


def _loop(config: RunConfig, seed: int) -> tuple[Loop, Iterator[Any]]:
    made = Training(config, seed)
    return Loop(made.model, made.loss_fn, made.optimizer, scheduler=made.scheduler), made.batches


def _record(config: RunConfig, seed: int, run: Path) -> tuple[list[tuple[int, float]], list[float]]:
    loop, batches = _loop(config, seed)
    losses: list[tuple[int, float]] = []
    norms: list[float] = []
    recorder = Recorder(scheduler=loop.scheduler)
    with Monitor(loop.model, loop.optimizer, loop.loss_fn, run=run, recorder=recorder) as monitor:
        for step, batch in enumerate(islice(batches, config.steps)):
            loss = loop.backward(batch)
            gradients = [one.grad for one in loop.model.parameters() if one.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))
            losses.append((step, float(loss)))
            monitor.observe(batch, loss)
            if not torch.isfinite(loss):
                break
            loop.update()
    return losses, norms


def _advise(
    config: RunConfig, seed: int, snapshot: Any, losses: Sequence[tuple[int, float]], norms: Sequence[float]
) -> Advice:
    def outcomes(change: Change) -> list[ReplayOutcome]:
        found = []
        for repeat in range(REPEATS):
            loop, batches = _loop(config, seed)
            arguments: Mapping[str, Any] = {"recorded": losses, "perturbed": repeat or None}
            found.append(replay(snapshot, loop, batches, steps=WINDOW, change=change, **arguments))
        return found

    usual = norms[max(snapshot.step - 200, 0) : snapshot.step + 1]
    tried = candidates(_loop(config, seed)[0].optimizer.param_groups[0], usual)
    return choose(tried, [outcomes(parse_change(one.change)) for one in tried], outcomes(Change()))


def _from_start(config: RunConfig, seed: int, change: Change) -> dict[str, Any]:
    """Train from perturbed starts; return late losses, and numbers of spikes."""
    found: dict[str, list[float]] = {"late_loss": [], "spikes": []}
    for start in range(1, STARTS + 1):
        loop, batches = _loop(config, seed)
        perturb(loop, start)
        losses, *_ = train(loop, batches, config.steps, change)
        outcome = ReplayOutcome(str(change), -1, tuple(losses), events_after(-1, (), losses))
        found["late_loss"].append(outcome.late_loss)
        found["spikes"].append(len(outcome.spikes))
    return found


def score_advice(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the advice was worth, over all trainings.

    Args:
        results: What `follow_advice` wrote.
    """
    spiky = [one for one in results if any(one.get("advice", {}).get("unchanged_spikes", ()))]
    advised = [one for one in spiky if "advised" in one]
    ratios = list(map(loss_ratio, advised))
    count: Callable[[str], int] = lambda which: sum(sum(one[which]["spikes"]) for one in advised)  # noqa: E731
    return {
        "trainings": len(results),
        "with_spikes_in_the_window": len(spiky),
        "advised": len(advised),
        "better": sum(ratio < 1 for ratio in ratios),
        "median_ratio": finite_or_none(statistics.median(ratios)) if ratios else None,
        "worst_ratio": finite_or_none(max(ratios, default=None)),
        "spikes_as_it_was": count("as_it_was"),
        "spikes_advised": count("advised"),
    }


def loss_ratio(result: Mapping[str, Any]) -> float:
    """Return the late loss of an advised training over that of the one as it was, medians over the starts.

    Args:
        result: What `follow_advice` wrote of a training that was advised.
    """
    one, other = (
        statistics.median(math.inf if loss is None else loss for loss in result[which]["late_loss"])
        for which in ("advised", "as_it_was")
    )
    return float(one / other) if math.isfinite(one) else math.inf
