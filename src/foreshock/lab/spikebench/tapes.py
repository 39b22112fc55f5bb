"""Tapes of a suite: resumable, on several processes, one file a run and a budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from foreshock.lab.jobs import finished
from foreshock.lab.spikebench.run import Run, as_plain, digest
from foreshock.lab.spikebench.suite import SUITES, suite
from foreshock.lab.spikebench.tape import Tape, record_tape

BUDGETS = (0.02, 0.05, 0.2, 1.0)
"""Passes a step; the default is the second, and the last stands for no bound."""


def tape_path(folder: str | os.PathLike[str], run: Run, budget: float) -> Path:
    """Return where the tape of a run is kept."""
    config, seed = run
    return Path(folder) / f"{budget:g}" / f"{config.name}-{seed}.json.gz"


def record_tapes(
    runs: Iterable[Run],
    folder: str | os.PathLike[str],
    *,
    budgets: Iterable[float] = BUDGETS,
    jobs: int = 1,
    on_done: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Record the tapes that are not there yet, a budget after the other.

    Args:
        runs: The runs.
        folder: Where the tapes are kept; made if missing.
        budgets: Passes a step.
        jobs: Processes, ≥ 1; each uses one thread.
        on_done: Called with the path of each tape that was recorded now.

    Returns:
        The paths of all tapes.

    Raises:
        ValueError: If `jobs` is below one.
    """
    runs = list(runs)
    pairs = [(run, budget) for budget in budgets for run in runs]
    missing = [(config.name, seed, budget, Path(folder)) for (config, seed), budget in absent(pairs, folder)]
    for path in finished(_record_named, missing, jobs=jobs):
        if on_done is not None:
            on_done(path)
    return [tape_path(folder, run, budget) for run, budget in pairs]


def absent(pairs: Iterable[tuple[Run, float]], folder: str | os.PathLike[str]) -> list[tuple[Run, float]]:
    """Return the runs and budgets of which there is no tape yet.

    Args:
        pairs: Runs and budgets.
        folder: Where the tapes are kept.
    """
    return [(run, budget) for run, budget in pairs if not tape_path(folder, run, budget).exists()]


def _record_named(name: str, seed: int, budget: float, folder: Path) -> Path:
    configs = {config.name: config for size in SUITES for config in suite(size)}
    config = configs[name]
    tape = record_tape(config, seed, budget=budget)
    meta = dict(tape.meta) | {"fingerprint": digest(as_plain(config), seed)}
    return Tape(meta, tape.calls, tape.losses).save(tape_path(folder, (config, seed), budget))
