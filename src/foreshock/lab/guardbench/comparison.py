"""Results → scores: each training against plain Adam's of the same configuration, seed and start."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from foreshock._version import __version__
from foreshock.lab.guardbench.judging import HEIGHTS
from foreshock.lab.guardbench.methods import METHODS, PLAIN, Method

Result = Mapping[str, Any]
HARM = 1.1
"""A mean loss above 1.1 × Adam's counts as harm."""

RENEWING = "value"
"""The family whose targets are renewed during training, so that its loss jumps with no step taken."""

FIXED, RENEWED = "full, fixed data", "full, renewed targets"
"""Groups of full-batch runs: what a guard can be held to, and what nobody can prevent altogether."""

_RATIOS = ("mean_loss", "mean_validation", "last_validation")
_BEST = "best_validation"


def compare(results: Iterable[Result]) -> dict[str, Any]:
    """Score results, by split, then by group of runs, then by method.

    Only trainings whose plain Adam is there too are scored. Those from perturbed starts count for `perturbed`
    alone, since not all methods have them.

    Args:
        results: What `foreshock.lab.guardbench.run.load_result` read.

    Returns:
        ``foreshock``, the version; ``seeds``; ``methods``, where each is from; ``tasks``, one row a
        configuration; ``scores``, by split, group and method; ``perturbed``, over all starts, by split, group
        and method, empty without perturbed ones. Groups are all, full, its parts `FIXED` and `RENEWED`,
        mini, language, and ``family NAME``. JSON can hold it.

    Raises:
        ImportError: If there are perturbed starts and scipy, which computes intervals, is missing.
        ValueError: If nothing can be compared.
    """
    everything = _paired(results)
    paired = [pair for pair in everything if not _start(pair[0])]
    if not paired:
        raise ValueError(
            "no training has plain Adam's beside it: there is nothing to compare; run some first"
        )
    return {
        "foreshock": __version__,
        "seeds": sorted({one["seed"] for one, _ in paired}),
        "methods": described(METHODS),
        "tasks": _tasks(paired),
        "scores": _by_group(paired, aggregate),
        "perturbed": _by_group(_repeated(everything), over_starts) if len(everything) > len(paired) else {},
    }


def described(methods: Iterable[Method]) -> dict[str, dict[str, str]]:
    """Return by name where each method is from.

    Args:
        methods: The methods.
    """
    return {one.name: {"source": one.source, "citation": one.citation, "note": one.note} for one in methods}


Pair = tuple[Result, Result]


def _by_group(paired: Iterable[Pair], together: Callable[[Sequence[Pair]], dict[str, Any]]) -> dict[str, Any]:
    """Return what a function makes of the trainings of each method, by split, group and method."""
    groups: dict[str, dict[str, dict[str, list[Pair]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for one, plain in paired:
        for group in _groups_of(one):
            groups[one["split"]][group][one["method"]].append((one, plain))
    return {
        split: {
            group: {name: together(pairs) for name, pairs in _ordered(methods).items()}
            for group, methods in sorted(found.items(), key=lambda item: _rank(item[0]))
        }
        for split, found in sorted(groups.items())
    }


def _repeated(paired: Sequence[Pair]) -> list[Pair]:
    """Return the trainings of the methods that were trained from perturbed starts, from all starts."""
    methods = {one["method"] for one, _ in paired if _start(one)}
    return [pair for pair in paired if pair[0]["method"] in methods]


def over_starts(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Put the trainings of one method from all starts together.

    Args:
        pairs: Each training with that of plain Adam from the same start.

    Returns:
        ``runs`` and ``tasks``, their number; ``spikes``, how many, and ``plain_spikes``, Adam's;
        ``spiking``, by height the runs with a spike above it, and the tasks that have such a run; ``share``,
        by height the 95 % interval for the share of such runs; of each ratio of losses median, worst and
        geometric mean; ``acted``, ``passes`` and ``time``, processor time ÷ Adam's.

    Raises:
        ImportError: If scipy is missing.
    """
    scored = [compared(one, plain) for one, plain in pairs]
    runs = [one for one, _ in pairs]
    spiking = {f"{height}x": [one for one in runs if _count(one, height)] for height in HEIGHTS}
    acted = [one["acted"] for one in runs if one["acted"] is not None]
    return {
        "runs": len(runs),
        "tasks": len({one["config"] for one in runs}),
        "diverged": sum(one["diverged"] for one in runs),
        "spikes": _counts(runs),
        "plain_spikes": _counts([plain for _, plain in pairs]),
        "spiking": {
            height: {"runs": len(found), "tasks": len({one["config"] for one in found})}
            for height, found in spiking.items()
        },
        "share": {height: interval(len(found), len(runs)) for height, found in spiking.items()},
        "worst_ratio": bounded(max(one["worst_ratio"] for one in runs)),
        "ratios": {name: _spread([one[name] for one in scored]) for name in (*_RATIOS, _BEST)},
        "acted": statistics.fmean(acted) if acted else None,
        "passes": statistics.fmean(one["passes"] for one in runs),
        "time": sum(one["seconds"] for one in runs) / sum(plain["seconds"] for _, plain in pairs),
    }


def interval(count: int, runs: int) -> list[float]:
    """Return the 95 % confidence interval of Clopper and Pearson (1934) for a share.

    It takes the runs for independent. Those of one task are alike, so that the truth is less certain than
    that: the tables say in how many tasks a spike is left, too.

    Args:
        count: Runs of which something holds.
        runs: All runs, ≥ 1.

    Raises:
        ImportError: If scipy is missing.

    Example:
        >>> interval(0, 100)
        [0.0, 0.036216...]
    """
    try:
        from scipy.stats import binomtest  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            'confidence intervals are computed by scipy: pip install "foreshock[bench]"'
        ) from error
    found = binomtest(count, runs).proportion_ci(0.95, method="exact")
    return [float(found.low), float(found.high)]


def aggregate(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Put the trainings of one method together.

    Args:
        pairs: Each training with that of plain Adam.

    Returns:
        Counts of runs, diverged runs and spikes, of Adam too; median, worst and geometric mean of each ratio
        of losses; ``harmed``, in how many runs the mean training or validation loss is above 1.1 × Adam's;
        share of steps acted and passes per step.
    """
    scored = [compared(one, plain) for one, plain in pairs]
    acted = [one["acted"] for one, _ in pairs if one["acted"] is not None]
    return {
        "runs": len(pairs),
        "diverged": sum(one["diverged"] for one, _ in pairs),
        "plain_diverged": sum(plain["diverged"] for _, plain in pairs),
        "spikes": _counts([one for one, _ in pairs]),
        "plain_spikes": _counts([plain for _, plain in pairs]),
        "worst_ratio": bounded(max(one["worst_ratio"] for one, _ in pairs)),
        "ratios": {name: _spread([one[name] for one in scored]) for name in _RATIOS},
        "harmed": sum(max(one["mean_loss"], one["mean_validation"]) > HARM for one in scored),
        "acted": statistics.fmean(acted) if acted else None,
        "passes": statistics.fmean(one["passes"] for one, _ in pairs),
    }


def compared(one: Result, plain: Result) -> dict[str, float]:
    """Return the losses of a training ÷ those of plain Adam; infinite where only the training's is.

    Args:
        one: The training.
        plain: Plain Adam's of the same configuration and seed.
    """
    # Results of earlier versions have no lowest validation loss.
    return {name: ratio(one[name], plain[name]) for name in (*_RATIOS, _BEST) if name in one}


def _start(one: Result) -> int:
    return int(one.get("start", 0))  # results of earlier versions have none


def _paired(results: Iterable[Result]) -> list[Pair]:
    read = list(results)
    plain = {_origin(one): one for one in read if one["method"] == PLAIN}
    return [(one, plain[origin]) for one in read if (origin := _origin(one)) in plain]


def _origin(one: Result) -> tuple[str, int, int]:
    return one["config"], one["seed"], _start(one)


def _tasks(paired: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return one row a configuration: Adam's spikes by seed, its mean loss; by method spikes and ratios."""
    rows: dict[str, list[Pair]] = defaultdict(list)
    for one, plain in paired:
        rows[one["config"]].append((one, plain))
    return [_task(pairs) for pairs in rows.values()]


def _task(pairs: Sequence[Pair]) -> dict[str, Any]:
    first = pairs[0][0]
    methods: dict[str, list[Pair]] = defaultdict(list)
    for one, plain in pairs:
        methods[one["method"]].append((one, plain))
    about = {name: first[name] for name in ("config", "split", "group", "family", "rate", "steps")}
    scored = {name: _in_task(found) for name, found in _ordered(methods).items()}
    free = [plain for _, plain in methods[PLAIN]]
    return about | {
        "plain_spikes": [_count(plain, 3) for plain in free],
        "plain_loss": _spread([plain["mean_loss"] for plain in free])["mean"],
        "methods": scored,
    }


def _in_task(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return spikes over all seeds and geometric means of the ratios of losses."""
    scored = [compared(one, plain) for one, plain in pairs]
    return {
        "spikes": sum(_count(one, 3) for one, _ in pairs),
        "loss": _spread([one["mean_loss"] for one in scored])["mean"],
        "validation": _spread([one["mean_validation"] for one in scored])["mean"],
    }


def _ordered(methods: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: methods[one.name] for one in METHODS if one.name in methods}


def _groups_of(one: Result) -> tuple[str, ...]:
    groups = ("all", one["group"], f"family {one['family']}")
    if one["group"] != "full":
        return groups
    return (*groups, RENEWED if one["family"] == RENEWING else FIXED)


def _rank(group: str) -> tuple[int, str]:
    order = ("all", "full", FIXED, RENEWED, "mini", "language")
    return (order.index(group) if group in order else len(order), group)


def _counts(runs: Sequence[Result]) -> dict[str, int]:
    return {f"{height}x": sum(_count(one, height) for one in runs) for height in HEIGHTS}


def _count(one: Result, height: float) -> int:
    return sum(spike > height for spike in one["spikes"])


def ratio(value: float, plain: float) -> float:
    """Return a loss ÷ plain Adam's: one where both are zero or infinite, and infinite where only it is.

    Args:
        value: The loss.
        plain: Plain Adam's.

    Example:
        >>> ratio(3.0, 2.0), ratio(math.inf, math.inf), ratio(1.0, 0.0)
        (1.5, 1.0, inf)
    """
    if not math.isfinite(plain):
        return 1.0 if not math.isfinite(value) else 0.0
    if plain == 0:
        return 1.0 if value == 0 else math.inf
    return value / plain


def _spread(ratios: Sequence[float]) -> dict[str, float | None]:
    """Return median, worst and geometric mean; None where infinite, as JSON has no such number."""
    return {
        "median": bounded(statistics.median(ratios)),
        "worst": bounded(max(ratios)),
        "mean": bounded(geometric_mean(ratios)),
    }


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean of some ratios: zero if one is, and infinite if one is.

    Args:
        ratios: The ratios, at least one, none below zero.

    Example:
        >>> [geometric_mean(ratios) for ratios in ([1.0, 4.0], [0.0, 4.0], [1.0, math.inf])]
        [2.0, 0.0, inf]
    """
    logs = [math.log(one) if one > 0 else -math.inf for one in ratios]
    return math.exp(statistics.fmean(logs)) if max(logs) < math.inf else math.inf


def unbounded(value: float | None) -> float:
    """Return a ratio as scores hold it as a number; None stands for infinity, which JSON lacks.

    Args:
        value: The ratio, or None.
    """
    return math.inf if value is None else value


def bounded(value: float) -> float | None:
    """Return a ratio as scores hold it, see `unbounded`.

    Args:
        value: The ratio.
    """
    return value if math.isfinite(value) else None
