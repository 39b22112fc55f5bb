"""Record a suite: resumable, on several processes, one trace a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from foreshock.lab.jobs import finished
from foreshock.lab.spikebench.recording import record
from foreshock.lab.spikebench.suite import SEEDS, SUITES, RunConfig, suite
from foreshock.lab.spikebench.trace import Trace

Run = tuple[RunConfig, int]


def runs_of(size: str, *, split: str | None = None) -> list[Run]:
    """Return the runs of a suite, each a configuration and a seed.

    Args:
        size: "full" or "test", every configuration with three seeds; or "quick", with one.
        split: "development", "held-out" or "test"; None for all.
    """
    seeds = SEEDS[:1] if size == "quick" else SEEDS
    return [
        (config, seed) for seed in seeds for config in suite(size) if split is None or config.split == split
    ]


def trace_path(folder: str | os.PathLike[str], run: Run) -> Path:
    """Return where the trace of a run is kept."""
    config, seed = run
    return Path(folder) / f"{config.name}-{seed}.npz"


def record_suite(
    runs: Iterable[Run],
    folder: str | os.PathLike[str],
    *,
    jobs: int = 1,
    on_done: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Record the runs that have no trace yet.

    It resumes where it was interrupted; a run whose configuration changed since is recorded anew.

    Args:
        runs: The runs.
        folder: Where the traces are kept; made if missing.
        jobs: Processes, ≥ 1; each uses one thread.
        on_done: Called with the path of each trace that was recorded now.

    Returns:
        The paths of all traces, in the order of `runs`.

    Raises:
        ValueError: If `jobs` is below one.
    """
    runs = list(runs)
    missing = [run for run in runs if not is_recorded(folder, run)]
    if jobs == 1:
        written = finished(_record_one, [(run, Path(folder)) for run in missing])
    else:
        calls = [(config.name, seed, Path(folder)) for config, seed in missing]
        written = finished(_record_named, calls, jobs=jobs)
    for path in written:
        if on_done is not None:
            on_done(path)
    return [trace_path(folder, run) for run in runs]


def is_recorded(folder: str | os.PathLike[str], run: Run) -> bool:
    """Return whether the trace of a run is there, and of its present configuration."""
    path = trace_path(folder, run)
    return path.exists() and Trace.load(path).meta.get("fingerprint") == fingerprint(run)


def fingerprint(run: Run) -> str:
    """Return a hash of all that a run depends on."""
    return digest(as_plain(run[0]), run[1])


def as_plain(config: RunConfig) -> dict[str, Any]:
    """Return what a run of SpikeBench depends on as plain values.

    The keys are fixed: other ones would make every recorded trace look outdated.
    """
    names = ("name", "family", "batch_size", "steps", "split", "role", "kind", "language")
    plain = {name: getattr(config, name) for name in names}
    return plain | {"options": dict(config.options), "optimizer": dataclasses.asdict(config.optimizer)}


def digest(*values: Any) -> str:
    """Return a short hash of plain values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _record_named(name: str, seed: int, folder: Path) -> Path:
    """Record a run by its name: its options are a read-only mapping, which no process can send another."""
    configs = {config.name: config for size in SUITES for config in suite(size)}
    return _record_one((configs[name], seed), folder)


def _record_one(run: Run, folder: Path) -> Path:
    trace = record(*run)
    path = trace_path(folder, run)
    partial = path.with_name(f"partial-{path.name}")
    Trace(dict(trace.meta) | {"fingerprint": fingerprint(run)}, trace.columns).save(partial)
    return partial.replace(path)
