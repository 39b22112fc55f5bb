"""Train a suite with all methods: resumable, on several processes, one small file a training."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from foreshock.lab.guardbench.methods import METHODS, PLAIN, Method, method
from foreshock.lab.guardbench.rates.suite import FACTORS, TASKS, at_rate
from foreshock.lab.guardbench.suite import SECTIONS, SUITES, section, suite
from foreshock.lab.guardbench.training import train
from foreshock.lab.jobs import finished, write_json
from foreshock.lab.spikebench.run import as_plain, digest
from foreshock.lab.spikebench.suite import SEEDS, RunConfig

BENCHMARK_CODE = (
    "foreshock.lab.guardbench.training",
    "foreshock.lab.guardbench.judging",
    "foreshock.lab.tasks.perturbation",
    "foreshock.lab.tasks.training",
)
"""Modules that every result depends on: where their code changes, results are outdated."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        config: What is trained.
        seed: Seed of weights and batches.
        method: The method.
        start: Number of the perturbed start; 0 is the unperturbed one.
    """

    config: RunConfig
    seed: int
    method: Method
    start: int = 0

    @property
    def name(self) -> str:
        """Unique name, usable as a file name."""
        start = f".{self.start}" if self.start else ""
        return f"{self.config.name}-{self.seed}{start}-{self.method.name}"

    @property
    def fingerprint(self) -> str:
        """A hash of all that the result depends on: settings, and the code of method and benchmark."""
        config, one = self.config, self.method
        plain = {"rate": config.rate, "precision": config.precision, "outliers": config.outliers}
        code = code_hash((*one.code, *BENCHMARK_CODE))
        return digest(as_plain(config), plain, self.seed, self.start, one.name, code)


def trials_of(
    name: str,
    *,
    split: str | None = None,
    methods: Iterable[Method] = METHODS,
    sections: Collection[str] = (),
    seeds: int | None = None,
    starts: int = 0,
) -> list[Trial]:
    """Return the trainings of a suite whose data sets are on this machine.

    All methods of a configuration, seed and start follow one another, and all configurations of a seed and
    start: whatever part of it was trained can be scored, and no configuration is ahead of the others.

    Args:
        name: Name of the suite.
        split: "development" or "held-out"; None for both.
        methods: The methods.
        sections: Only configurations of these `SECTIONS`; empty for all.
        seeds: How many seeds, 1 to 3; by default one of "quick", three of the others.
        starts: Perturbed starts of each seed beside the unperturbed one, of plain Adam and the guards alone:
            the others would take most of the time.

    Raises:
        ValueError: If there are not so many seeds or no such section, or `starts` is below zero.
    """
    count = (1 if name == "quick" else len(SEEDS)) if seeds is None else seeds
    if not 1 <= count <= len(SEEDS):
        raise ValueError(f"seeds is {seeds!r}; of 1 to {len(SEEDS)} seeds there are trainings")
    if not starts >= 0:
        raise ValueError(f"starts is {starts!r}; it is a number of perturbed starts, 0 for none")
    for one in sections:
        if one not in SECTIONS:
            raise ValueError(f"there is no group {one!r}; there are {', '.join(SECTIONS)}")
    methods = tuple(methods)
    return [
        Trial(config, seed, one, start)
        for start in range(starts + 1)
        for seed in SEEDS[:count]
        for config in suite(name)
        if config.available
        and (split is None or config.split == split)
        and (not sections or section(config) in sections)
        for one in methods
        if not start or one.name == PLAIN or one.source == "foreshock"
    ]


def left_out(name: str, *, split: str | None = None) -> list[str]:
    """Return the names of the configurations whose data sets are not on this machine.

    Args:
        name: Name of the suite.
        split: "development" or "held-out"; None for both.
    """
    return [
        config.name
        for config in suite(name)
        if not config.available and (split is None or config.split == split)
    ]


def result_path(folder: str | os.PathLike[str], trial: Trial) -> Path:
    """Return where the result of a training is kept."""
    return Path(folder) / f"{trial.name}.json"


def is_done(folder: str | os.PathLike[str], trial: Trial) -> bool:
    """Return whether the result of a training is there, and of its present settings and code."""
    path = result_path(folder, trial)
    return path.exists() and json.loads(path.read_text("utf-8")).get("fingerprint") == trial.fingerprint


def run_suite(
    trials: Iterable[Trial],
    folder: str | os.PathLike[str],
    *,
    jobs: int = 1,
    on_done: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Train what has no result yet. It resumes where it was interrupted.

    Args:
        trials: The trainings.
        folder: Where the results are kept; made if missing.
        jobs: Processes, ≥ 1; each uses one thread.
        on_done: Called with the path of each result that was made now.

    Returns:
        The paths of all results, in the order of `trials`.

    Raises:
        ValueError: If `jobs` is below one.
    """
    trials, place = list(trials), Path(folder)
    missing = [trial for trial in trials if not is_done(place, trial)]
    if jobs == 1:
        written = finished(train_one, [(trial, place) for trial in missing])
    else:
        calls = [(one.config.name, one.seed, one.method.name, one.start, place) for one in missing]
        written = finished(_train_named, calls, jobs=jobs)
    for path in written:
        if on_done is not None:
            on_done(path)
    return [result_path(place, trial) for trial in trials]


def train_one(trial: Trial, folder: Path) -> Path:
    """Train, and write the result.

    Args:
        trial: The training.
        folder: Where results are kept.
    """
    config = trial.config
    outcome = dataclasses.asdict(train(config, trial.seed, trial.method, start=trial.start))
    about = {
        "config": config.name,
        "seed": trial.seed,
        "start": trial.start,
        "method": trial.method.name,
        "fingerprint": trial.fingerprint,
        "split": config.split,
        "family": config.category,
        "group": config.group,
        "rate": config.rate,
        "steps": config.steps,
    }
    return write_json(
        about | {name: _plain(value) for name, value in outcome.items()}, result_path(folder, trial)
    )


def load_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `train_one` wrote; infinity is written as the string "inf", since JSON has no such number."""
    read: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    return {name: _parsed(value) for name, value in read.items()}


@lru_cache(maxsize=256)
def code_hash(modules: tuple[str, ...]) -> str:
    """Return a hash of the code of modules and packages; comments, docstrings and layout do not count.

    Args:
        modules: Names of modules; of packages all their modules count. One that is missing counts as such.
    """
    made = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            made.update(f"no {name}".encode())
            continue
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
        for file in files:
            made.update(_bare_code(file.read_text("utf-8")).encode())
    return made.hexdigest()[:16]


def _bare_code(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) and body:
            del body[0]
    return ast.dump(tree)


def _train_named(config: str, seed: int, named: str, start: int, folder: Path) -> Path:
    """Train by name: functions and read-only mappings can't be sent to another process."""
    configs = {one.name: one for name in SUITES for one in suite(name)}
    configs |= {one.name: one for task in TASKS for one in (at_rate(task, factor) for factor in FACTORS)}
    return train_one(Trial(configs[config], seed, method(named), start), folder)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _parsed(value: Any) -> Any:
    if isinstance(value, list):
        return [_parsed(item) for item in value]
    return float(value) if value in ("inf", "nan") else value
