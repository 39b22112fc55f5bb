"""Results → each method at its own best rate, chosen on other seeds than it is scored on."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from foreshock._version import __version__
from foreshock.lab.guardbench.comparison import bounded, described, geometric_mean, ratio, unbounded
from foreshock.lab.guardbench.methods import METHODS, PLAIN
from foreshock.lab.guardbench.rates.adding import known, parts
from foreshock.lab.guardbench.rates.suite import TASKS

QUANTITIES = ("loss", "validation")
"""What is compared: the training loss over the second half, and the early-stopped validation loss."""

NAMES: Mapping[str, str] = MappingProxyType(
    {"loss": "training loss", "validation": "early-stopped validation loss"}
)
"""What these are called on the page and in the figures."""

NEAR = 1.5
"""A rate is tolerated if its loss is at most this multiple of the least."""

GUARDS = ("guard-auto", "guard-alone", "guard-muon")
TARGET = 0.7
"""Share of the tasks on which a guard should be better than a peer."""

Run = Mapping[str, Any]
Curve = Mapping[int, Mapping[float, Run]]
"""The runs of one task and method, by seed and factor."""


def collect(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put results together: all that the page is made of, and JSON can hold it.

    Args:
        results: What `foreshock.lab.guardbench.run.load_result` read.

    Returns:
        ``foreshock``, the version; ``methods`` and ``tasks``, what is known of each; and ``runs``, one entry
        a training: task, method, seed, factor, loss and validation (None where infinite), spikes, diverged,
        seconds of processor time.

    Raises:
        ValueError: If there is no result, or one is of another suite.
    """
    runs = [_entry(one) for one in results]
    if not runs:
        raise ValueError("there is no result yet: run `foreshock bench rates` without --partial first")
    there = {run["task"] for run in runs}
    trained = {run["method"] for run in runs}
    return {
        "foreshock": __version__,
        "methods": described(one for one in METHODS if one.name in trained),
        "tasks": {
            task.name: {
                "split": task.split,
                "group": task.group,
                "steps": task.steps,
                "rate": task.optimizer.learning_rate,
            }
            for task in TASKS
            if task.name in there
        },
        "runs": runs,
    }


def _entry(result: Mapping[str, Any]) -> dict[str, Any]:
    task, _, factor = str(result["config"]).rpartition("-x")
    if task not in {one.name for one in TASKS}:
        raise ValueError(f"{result['config']!r} is no result of `foreshock bench rates`")
    return {
        "task": task,
        "method": result["method"],
        "seed": result["seed"],
        "factor": float(factor),
        "loss": bounded(result["mean_loss"]),
        "validation": bounded(result["best_validation"]),
        "spikes": len(result["spikes"]),
        "diverged": bool(result["diverged"]),
        "seconds": result["seconds"],
    }


Curves = dict[str, dict[str, dict[int, dict[float, Run]]]]
"""The runs by task, method, seed and factor."""


def curves(data: Mapping[str, Any]) -> Curves:
    """Return the runs by task, method, seed and factor.

    A seed of a task counts only if every method was trained at every rate on it: where training was stopped,
    no method has an easier or harder part than another. Plain Adam is that of the first part.

    Args:
        data: What `collect` or `foreshock.lab.guardbench.rates.adding.add` returned.
    """
    first, *others = map(_curves, parts(data))
    for other in others:
        for task, methods in other.items():
            first[task] |= {name: curve for name, curve in methods.items() if name != PLAIN}
    return first


def _curves(data: Mapping[str, Any]) -> Curves:
    """Return the runs of one part."""
    factors = {run["factor"] for run in data["runs"]}
    found: Curves = {task: {name: {} for name in data["methods"]} for task in data["tasks"]}
    for run in data["runs"]:
        found[run["task"]][run["method"]].setdefault(run["seed"], {})[run["factor"]] = run
    for methods in found.values():
        seeds = {seed for curve in methods.values() for seed in curve}
        for seed in seeds:
            if any(curve.get(seed, {}).keys() != factors for curve in methods.values()):
                for curve in methods.values():
                    curve.pop(seed, None)
    return found


def best_factor(curve: Curve, seeds: Iterable[int], quantity: str) -> float:
    """Return the multiple of the base rate with the least loss, as geometric mean over some seeds.

    Args:
        curve: The runs of one task and method.
        seeds: The seeds to look at, at least one; no other is.
        quantity: "loss" or "validation".
    """
    looked = [curve[seed] for seed in seeds]
    means = {factor: mean([one[factor][quantity] for one in looked]) for factor in sorted(looked[0])}
    return min(means, key=lambda factor: means[factor])


def at_best(curve: Curve, quantity: str) -> list[Run]:
    """Return for each seed its run at the rate that is best on all other seeds.

    Args:
        curve: The runs of one task and method.
        quantity: What the rate is chosen by, "loss" or "validation".

    Returns:
        One run a seed; none if there is only one seed.
    """
    seeds = sorted(curve)
    if len(seeds) < 2:
        return []
    others = {seed: [one for one in seeds if one != seed] for seed in seeds}
    return [curve[seed][best_factor(curve, others[seed], quantity)] for seed in seeds]


def compare(data: Mapping[str, Any]) -> dict[str, Any]:
    """Score each method at its own best rate.

    Losses of methods that were added are those ÷ Adam's beside them, times Adam's of the first part.

    Args:
        data: What `collect` or `foreshock.lab.guardbench.rates.adding.add` returned.

    Returns:
        ``tasks``, those with two seeds or more, each with the number of ``seeds`` and by method what
        `_in_task` says; ``methods``, over all tasks; and ``pairs``, by guard, peer and quantity on how many
        tasks the guard is better.

    Raises:
        ValueError: If no task has two whole seeds, or plain Adam is missing.
    """
    names = list(known(data))
    scored = [(_tasks(part), _whole(part)) for part in parts(data)]
    tasks, whole = scored[0]
    for others, about in scored[1:]:
        whole |= {name: one for name, one in about.items() if name != PLAIN}
        for task, there in others.items():
            here = tasks[task]["methods"]
            here |= {
                name: _beside(entry, there["methods"][PLAIN], here[PLAIN])
                for name, entry in there["methods"].items()
                if name != PLAIN
            }
    for scores in tasks.values():
        scores["methods"] = {name: scores["methods"][name] for name in names}
    return {
        "tasks": tasks,
        "methods": {name: {**_overall(tasks, name), **whole[name]} for name in names},
        "pairs": {
            guard: {peer: _pair(tasks, guard, peer) for peer in names if peer not in GUARDS}
            for guard in GUARDS
            if guard in names
        },
    }


def _tasks(part: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tasks of one part that have two whole seeds or more, as `compare` does."""
    tasks = {
        task: {"seeds": len(next(iter(methods.values()))), "methods": _in_task(methods)}
        for task, methods in _curves(part).items()
        if len(next(iter(methods.values()))) >= 2
    }
    if not tasks or PLAIN not in part["methods"]:
        raise ValueError(
            "no task was trained with plain Adam and every method at every rate from two seeds: a rate is "
            "chosen on one seed and scored on another; train on"
        )
    return tasks


def _whole(part: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return of each method of one part what is counted over all its runs."""
    found = _curves(part)
    runs = {name: _runs(found, name) for name in part["methods"]}
    plain = sum(run["seconds"] for run in runs[PLAIN])
    return {
        name: {
            "diverged": statistics.fmean(run["diverged"] for run in some),
            "time": sum(run["seconds"] for run in some) / plain,
        }
        for name, some in runs.items()
    }


def _beside(entry: Mapping[str, Any], there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's losses as they would be if Adam beside it had had the losses of the first part's."""
    return {
        **entry,
        **{quantity: ratio(entry[quantity], there[quantity]) * here[quantity] for quantity in QUANTITIES},
        "highest": ratio(entry["highest"], there["loss"]) * here["loss"],
    }


def _in_task(methods: Mapping[str, Curve]) -> dict[str, dict[str, Any]]:
    """Return each method's losses at its best rate, the rate's factors, spikes, and its tolerance."""
    return {name: _of_curve(curve) for name, curve in methods.items()}


def _of_curve(curve: Curve) -> dict[str, Any]:
    scored = {quantity: at_best(curve, quantity) for quantity in QUANTITIES}
    factors = sorted(next(iter(curve.values())))
    chosen = [run["factor"] for run in scored["loss"]]
    return {
        **{quantity: mean([run[quantity] for run in runs]) for quantity, runs in scored.items()},
        "factor": mean(chosen),
        "edge": any(factor in (factors[0], factors[-1]) for factor in chosen),
        "spikes": sum(run["spikes"] for run in scored["loss"]),
        "tolerance": tolerance(curve),
        "highest": mean([one[factors[-1]]["loss"] for one in curve.values()]),
    }


def tolerance(curve: Curve) -> float:
    """Return the highest ÷ the lowest of the rates beside the best whose loss is at most 1.5 × the least.

    The loss is the geometric mean over all seeds; between two rates nothing is assumed, so that a lone best
    rate has tolerance 1.

    Args:
        curve: The runs of one task and method.
    """
    factors = sorted(next(iter(curve.values())))
    means = [mean([one[factor]["loss"] for one in curve.values()]) for factor in factors]
    best = low = high = means.index(min(means))
    limit = NEAR * means[best]
    while low > 0 and means[low - 1] <= limit:
        low -= 1
    while high + 1 < len(means) and means[high + 1] <= limit:
        high += 1
    return factors[high] / factors[low]


def _overall(tasks: Mapping[str, Any], name: str) -> dict[str, Any]:
    entries = [(task["methods"][name], task["methods"][PLAIN]) for task in tasks.values()]
    ours = [entry for entry, _ in entries]
    ratios = {
        quantity: [ratio(entry[quantity], plain[quantity]) for entry, plain in entries]
        for quantity in QUANTITIES
    }
    return {
        **{quantity: mean(found) for quantity, found in ratios.items()},
        "medians": {quantity: statistics.median(found) for quantity, found in ratios.items()},
        "factor": mean([entry["factor"] for entry in ours]),
        "edge": sum(entry["edge"] for entry in ours),
        "spikes": sum(entry["spikes"] for entry in ours),
        "tolerance": mean([entry["tolerance"] for entry in ours]),
        "highest": mean([ratio(entry["highest"], plain["loss"]) for entry, plain in entries]),
    }


def _pair(tasks: Mapping[str, Any], guard: str, peer: str) -> dict[str, Any]:
    """Return by quantity on how many tasks the guard is better, and on how many the two are equal."""
    both = [(task["methods"][guard], task["methods"][peer]) for task in tasks.values()]
    return {
        quantity: {
            "better": sum(ours[quantity] < theirs[quantity] for ours, theirs in both),
            "equal": sum(ours[quantity] == theirs[quantity] for ours, theirs in both),
        }
        for quantity in QUANTITIES
    }


def _runs(found: Mapping[str, Mapping[str, Curve]], name: str) -> list[Run]:
    """Return a method's runs, over all tasks, seeds and rates."""
    return [run for methods in found.values() for by in methods[name].values() for run in by.values()]


def mean(values: Sequence[float | None]) -> float:
    """Return the geometric mean of values ≥ 0; None stands for infinity, which JSON lacks.

    Args:
        values: The values, at least one.

    Example:
        >>> mean([1.0, 4.0]), mean([1.0, None])
        (2.0, inf)
    """
    return geometric_mean([unbounded(value) for value in values])
