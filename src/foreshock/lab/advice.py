"""Is advice worth following? Trainings that spike, advised from a window, and trained again from their start.

A training is recorded as a user would, with a monitor of default settings. From one of the snapshots that
were written before its alarms and spikes, and for the best of them from the start, `foreshock.replay.search`
tries candidates. What it advises is followed from the first step on, from starts that the search has not
seen, and compared with the training as it was from as many.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from foreshock import Monitor
from foreshock.lab.jobs import write_json
from foreshock.lab.spikebench.suite import RunConfig, suite
from foreshock.lab.tasks import Training
from foreshock.recorder import Recorder, list_snapshots, load_snapshot
from foreshock.replay import Change, Loop, parse_change, replay
from foreshock.replay.advice import Advice, candidates, choose_start
from foreshock.replay.outcome import ReplayOutcome, finite_or_none
from foreshock.replay.search import Attempt, search
from foreshock.replay.window import replay_whole
from foreshock.representation import changed

STEPS = 1000
"""A training ends here, if not before."""
WINDOW, REPEATS = 300, 2
"""Steps and starts of the trials; ``foreshock advise`` has 500 and three by default."""
SEEDS = (10, 11, 20, 21, 22, 23)
"""Of the trainings. Some of seeds 10 and 11 had followed their advice before the method was changed."""
_LEFT_OUT = ("language", "addition", "transformer")  # families that take several times as long a step
_CHEAP, _OTHERS = "mlp", 4  # the family that has all seeds, and how many the others have
_UNSEEN = 100  # first number of the starts from which advice is followed: those of the search are below


def advised_runs() -> list[tuple[str, int]]:
    """Return the trainings, by name and seed: those of SpikeBench, both halves, that should spike."""
    chosen = [
        config
        for config in suite("full")
        if config.role == "spiky" and config.available and config.family not in _LEFT_OUT
    ]
    chosen.sort(key=lambda config: config.family != _CHEAP)
    # Seed by seed, so that where it ends early each configuration has about as many.
    return [
        (config.name, seed)
        for place, seed in enumerate(SEEDS)
        for config in chosen
        if config.family == _CHEAP or place < _OTHERS
    ]


def advice_file(name: str, seed: int, folder: Path) -> Path:
    """Return where `try_changes` writes what it advises for a training.

    Args:
        name: Name of the configuration.
        seed: Its seed.
        folder: Of the results.
    """
    return folder / f"{name}-{seed}.json"


def start_file(name: str, seed: int, start: int, folder: Path) -> Path:
    """Return where `follow_advice` writes what the advice came to from one start.

    Args:
        name: Name of the configuration.
        seed: Its seed.
        start: Which perturbation of the initial weights.
        folder: Of the results.
    """
    return folder / "starts" / f"{name}-{seed}-{start}.json"


def try_changes(name: str, seed: int, folder: Path) -> Path:
    """Record a training, and have it advised.

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
    shutil.rmtree(run, ignore_errors=True)  # of a command that was interrupted
    losses, norms = _record(config, seed, run)
    found: dict[str, Any] = {"name": name, "seed": seed, "group": config.group, "steps": len(losses)}
    snapshots = [load_snapshot(path) for path in list_snapshots(run)]
    if snapshots:
        chosen = snapshots[choose_start([one.step for one in snapshots], losses, WINDOW)]
        advice = _advise(config, seed, chosen, losses, norms)
        found |= {"from": chosen.step, "advice": advice.as_mapping()}
    return write_json(finite_or_none(found), advice_file(name, seed, folder))


def train_advised(name: str, seed: int, starts: int, folder: Path) -> Path:
    """Record a training, have it advised, and follow the advice: whatever of that is not there yet.

    Args:
        name: Name of the configuration.
        seed: Its seed.
        starts: From how many perturbed starts the advice is followed.
        folder: Of the results.

    Returns:
        The file with the advice.
    """
    path = advice_file(name, seed, folder)
    if not path.exists():
        try_changes(name, seed, folder)
    for start in range(1, starts + 1):
        if _advice(name, seed, folder) is not None and not start_file(name, seed, start, folder).exists():
            follow_advice(name, seed, start, folder)
    return path


def is_complete(name: str, seed: int, starts: int, folder: Path) -> bool:
    """Return whether all that `train_advised` writes is there.

    Args:
        name: Name of the configuration.
        seed: Its seed.
        starts: From how many perturbed starts the advice is followed.
        folder: Of the results.
    """
    if not advice_file(name, seed, folder).exists():
        return False
    followed = (start_file(name, seed, start, folder).exists() for start in range(1, starts + 1))
    return _advice(name, seed, folder) is None or all(followed)


def follow_advice(name: str, seed: int, start: int, folder: Path) -> Path:
    """Train from a perturbed start as it was, and with what `try_changes` advised, and write both losses.

    Args:
        name: Name of the configuration.
        seed: Its seed.
        start: Which perturbation of the initial weights, ≥ 1.
        folder: Of the results.

    Returns:
        The file written.

    Raises:
        ValueError: If nothing was advised.
    """
    torch.set_num_threads(1)
    advice, config = _advice(name, seed, folder), _config(name)
    if advice is None:
        raise ValueError(
            f"{advice_file(name, seed, folder)} advises nothing, so that nothing can be followed"
        )
    found = {
        "as_it_was": _from_start(config, seed, start, None),
        "advised": _from_start(config, seed, start, parse_change(advice)),
    }
    return write_json(finite_or_none(found), start_file(name, seed, start, folder))


def results_of(folder: Path) -> list[dict[str, Any]]:
    """Return what came of each training so far, all its starts together.

    Args:
        folder: Of the results; what is not there yet is left out.
    """
    found = []
    for name, seed in advised_runs():
        path = advice_file(name, seed, folder)
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            starts = sorted((folder / "starts").glob(f"{name}-{seed}-*.json"))
            parts = [json.loads(one.read_text(encoding="utf-8")) for one in starts]
            found.append(result | _together(parts))
    return found


def _together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return late losses and numbers of spikes of several starts as lists; nothing of none."""
    names = ("as_it_was", "advised") if parts else ()
    return {
        which: {key: [part[which][key] for part in parts] for key in ("late_loss", "spikes")}
        for which in names
    }


def _advice(name: str, seed: int, folder: Path) -> str | None:
    text = advice_file(name, seed, folder).read_text(encoding="utf-8")
    words: str | None = json.loads(text).get("advice", {}).get("advice")
    return words


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
    def attempt(one: Attempt) -> ReplayOutcome:
        loop, batches = _loop(config, seed)
        change = parse_change(one.change) if one.change else None
        perturbed = one.start or None
        if one.whole:
            return replay_whole(loop, batches, steps=config.steps, change=change, perturbed=perturbed)
        options: Mapping[str, Any] = {"recorded": losses, "perturbed": perturbed, "measure": True}
        return replay(snapshot, loop, batches, steps=WINDOW, change=change, **options)

    usual = norms[max(snapshot.step - 200, 0) : snapshot.step + 1]
    tried = candidates(_loop(config, seed)[0].optimizer.param_groups[0], usual)
    run = lambda attempts: [attempt(one) for one in attempts]  # noqa: E731
    return search(run, tried, starts=REPEATS, whole_steps=config.steps)


def _from_start(config: RunConfig, seed: int, start: int, change: Change | None) -> dict[str, Any]:
    """Train from a perturbed start; return the late loss, and the number of spikes."""
    loop, batches = _loop(config, seed)
    perturbed = _UNSEEN + start
    outcome = replay_whole(loop, batches, steps=config.steps, change=change, perturbed=perturbed)
    return {"late_loss": outcome.late_loss, "spikes": len(outcome.spikes)}


def score_advice(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the advice was worth, over all trainings.

    Args:
        results: Of `results_of`.
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
        result: Of a training that was advised, one of `results_of`.
    """
    one, other = (
        statistics.median(math.inf if loss is None else loss for loss in result[which]["late_loss"])
        for which in ("advised", "as_it_was")
    )
    return float(one / other) if math.isfinite(one) else math.inf
