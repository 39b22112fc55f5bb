"""Run experiments seed by seed; what is there already is not run again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshock._version import __version__
from foreshock.lab.reproduction.experiment import Experiment, OnStep, Outcome
from foreshock.lab.reproduction.results import Result

OUTCOME = "outcome.json"
BEGUN = "begun"
"""File that names the configuration of a seed that was begun and can go on."""
Start = Callable[[str, int], OnStep]
"""Called with experiment and seed before a seed is run; returns what to call with its progress."""


@dataclass(frozen=True)
class Order:
    """What to run, and where it is kept.

    Attributes:
        experiment: The experiment.
        scale: Name of the scale, one of the experiment's.
        config: Its configuration, changed or not.
        seeds: The seeds.
        folder: Folder of all runs.
        command: What was typed.
    """

    experiment: Experiment
    scale: str
    config: Any
    seeds: Sequence[int]
    folder: Path
    command: str

    def seed_folder(self, seed: int) -> Path:
        """Return where one seed is kept.

        Args:
            seed: The seed.
        """
        return self.folder / self.scale / self.experiment.name / f"seed{seed}"

    def fingerprint(self, seed: int) -> str:
        """Return a hash of what a seed depends on.

        Args:
            seed: The seed.
        """
        claims = [claim.name for claim in self.experiment.claims]
        parts = [self.experiment.name, claims, dataclasses.asdict(self.config), seed]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def done(self, seed: int) -> dict[str, Any] | None:
        """Return what is kept of a seed that was run with this very configuration; None if nothing is.

        Args:
            seed: The seed.
        """
        path = self.seed_folder(seed) / OUTCOME
        if not path.exists():
            return None
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept if kept["fingerprint"] == self.fingerprint(seed) else None


def run_order(order: Order, *, start: Start) -> Result:
    """Run the seeds that are missing and return the result of all.

    Args:
        order: What to run.
        start: Told of each seed that is run now.
    """
    kept = [order.done(seed) or _run_seed(order, seed, start) for seed in order.seeds]
    names = dict.fromkeys(name for one in kept for name in one["measured"])
    return Result(
        experiment=order.experiment.name,
        scale=order.scale,
        settings=_published(dataclasses.asdict(order.config)),
        command=order.command,
        seeds=list(order.seeds),
        measured={name: [_number(one["measured"].get(name)) for one in kept] for name in names},
        notes=list(dict.fromkeys(note for one in kept for note in one["notes"])),
        seconds=[one["seconds"] for one in kept],
        machine=machine(),
    )


def _run_seed(order: Order, seed: int, start: Start) -> dict[str, Any]:
    folder = _open_folder(order, seed)
    began = time.process_time()
    outcome: Outcome = order.experiment.run(order.config, seed, folder, start(order.experiment.name, seed))
    kept = {
        "fingerprint": order.fingerprint(seed),
        "measured": {name: _encode(value) for name, value in outcome.measured.items()},
        "notes": list(outcome.notes),
        "seconds": round(time.process_time() - began if outcome.seconds is None else outcome.seconds, 1),
    }
    partial = folder / f"{OUTCOME}.partial"
    partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    partial.replace(folder / OUTCOME)
    return kept


def _open_folder(order: Order, seed: int) -> Path:
    """Return the folder of a seed: empty, or as this very run left it if it can go on from there."""
    folder = order.seed_folder(seed)
    begun = folder / BEGUN
    fingerprint = order.fingerprint(seed)
    goes_on = order.experiment.resumable and begun.exists() and begun.read_text() == fingerprint
    if not goes_on:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if order.experiment.resumable:
        begun.write_text(fingerprint)
    return folder


def machine() -> str:
    """Return versions and device in one line."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return f"Foreshock {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {device}"


def _encode(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else str(value)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _published(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with files by their names: where they lay on a machine is nobody's business."""
    files = {name: Path(settings[name]).name for name in ("path", "text") if settings.get(name)}
    return {**settings, **files}
