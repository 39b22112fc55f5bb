"""Kill trainings at random moments, resume them, and compare with one that was left alone.

Run from the root of the repository, on Linux or macOS::

    python -m benchmarks.kills --trials 100

A training writes a checkpoint every ten steps. A trial starts it, kills it with SIGKILL once or twice, reads
its log each time, and resumes it to its end: weights must be, bit by bit, and the log but for rounding, what
they are without. Training and monitor have state: dropout, mini-batches, probes of noise, a guard in every
other trial.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.reliability.page import keep
from torch import nn

import foreshock
from foreshock.report import summarise, to_text
from foreshock.runlog import read_run

STEPS = 60
EVERY = 10
"""Steps from one checkpoint to the next."""


@dataclass(frozen=True)
class Place:
    """Where a training keeps its files.

    Attributes:
        folder: The folder.
        guard: The guard of its optimizer, or None.
    """

    folder: Path
    guard: str | None

    @property
    def run(self) -> Path:
        """Folder of its log."""
        return self.folder / "run"

    @property
    def checkpoint(self) -> Path:
        """Its last checkpoint."""
        return self.folder / "last.pt"

    @property
    def weights(self) -> Path:
        """What it ended with."""
        return self.folder / "weights.pt"


def _loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def train(place: Place) -> None:
    """Train from the last checkpoint, or from the beginning, to the end.

    Args:
        place: Where its files are.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    inputs = torch.randn(64, 4)
    targets = torch.sin(3 * inputs.sum(1, keepdim=True))
    monitor = foreshock.Monitor(
        model, optimizer, _loss_fn, run=place.run, probe_every=4, guard=place.guard, log_every=5
    )
    first = 0
    if place.checkpoint.exists():
        saved = torch.load(place.checkpoint, weights_only=True)
        for owner, name in ((model, "model"), (optimizer, "optimizer"), (monitor, "monitor")):
            owner.load_state_dict(saved[name])  # type: ignore[attr-defined]
        torch.set_rng_state(saved["random"])
        first = saved["step"]
    for step in range(first, STEPS):
        chosen = torch.randint(0, 64, (16,))
        batch = inputs[chosen], targets[chosen]
        optimizer.zero_grad()
        loss = _loss_fn(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        monitor.observe(batch, loss)
        optimizer.step()
        if (step + 1) % EVERY == 0:
            _save(place, model=model, optimizer=optimizer, monitor=monitor, step=step + 1)
    monitor.close()
    torch.save([value.detach() for value in model.parameters()], place.weights)


def _save(place: Place, *, step: int, **owners: Any) -> None:
    states = {name: owner.state_dict() for name, owner in owners.items()}
    beside = place.checkpoint.with_suffix(".new")
    torch.save({**states, "random": torch.get_rng_state(), "step": step}, beside)
    beside.replace(place.checkpoint)


def _started(place: Place) -> int:
    """Start a training in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            train(place)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a forked process must not come back
            traceback.print_exc()
            os._exit(1)
    return child


def _ended(place: Place) -> bool:
    """Let a training run to its end; return whether it came there."""
    return os.waitpid(_started(place), 0)[1] == 0


class Trials:
    """Trials with one guard, or none.

    Args:
        folder: Where files may be written.
        guard: The guard, or None.
    """

    def __init__(self, folder: Path, guard: str | None) -> None:
        self._folder, self._guard = folder, guard
        whole = self._place("whole")
        if not _ended(whole):
            raise RuntimeError("the training that is left alone failed; its traceback is above")
        began = time.monotonic()
        _ended(self._place("timed"))
        self._seconds = time.monotonic() - began
        self._weights: list[torch.Tensor] = torch.load(whole.weights, weights_only=True)
        self._log = _rows(whole)

    def trial(self, number: int) -> Counter[str]:
        """Return what came of one trial.

        Args:
            number: Its seed.
        """
        choose, place = random.Random(number), self._place(str(number))  # noqa: S311 - moments, no secrets
        counts = Counter(trials=1)
        for _ in range(choose.choice((1, 1, 2))):
            child = _started(place)
            time.sleep(choose.random() * self._seconds)
            if os.waitpid(child, os.WNOHANG)[0] == 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                counts["kills"] += 1
            counts += self._after_a_kill(place)
        if not _ended(place):
            return counts + Counter({"resumed in vain": 1})
        weights: list[torch.Tensor] = torch.load(place.weights, weights_only=True)
        counts["other weights"] = not all(map(torch.equal, weights, self._weights))
        counts["another log"] = not is_same(_rows(place), self._log)
        return counts

    def _place(self, name: str) -> Place:
        folder = self._folder / f"{self._guard} {name}"
        folder.mkdir()
        return Place(folder, self._guard)

    def _after_a_kill(self, place: Place) -> Counter[str]:
        if not (place.run / "rank0.jsonl").exists() or not (place.run / "rank0.jsonl").stat().st_size:
            return Counter()  # before its first row
        run = read_run(place.run)
        to_text(summarise(run))
        steps = run.steps("step").tolist()
        return Counter({"logs with a gap": steps != list(range(len(steps))), "torn lines": run.skipped})


def _rows(place: Place) -> dict[str, list[dict[str, Any]]]:
    """Return the records of a log by kind, without how long a probe took, and without that it was resumed."""
    records = read_run(place.run).records
    return {
        kind: [{**row, "seconds": 0} for row in rows]
        for kind, rows in records.items()
        if rows and kind != "change"
    }


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values of logs agree, numbers to a relative 1e-5.

    A norm in float32 is summed in another order if its tensor lies elsewhere in memory, as it does after
    loading: that moved ‖g‖ by 3e-8 where all weights were the same.

    Args:
        one: What JSON can hold.
        other: The same.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def main() -> int:
    """Run the trials; return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=100, help="how many trainings are killed and resumed")
    parser.add_argument("--publish", action="store_true", help="keep the counts for docs/reliability.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        both = [Trials(Path(name), guard) for guard in (None, "auto")]
        for number in range(options.trials):
            found = both[number % 2].trial(number)
            counts += found
            if any(found[what] for what in LOST):
                sys.stdout.write(f"trial {number}: {dict(found)}\n")
    record = {**counts, "lost": sum(counts[what] for what in LOST)}
    record |= {"torch": torch.__version__, "date": dt.datetime.now(dt.UTC).date().isoformat()}
    sys.stdout.write(json.dumps(record, indent=2) + "\n")
    if options.publish:
        keep("kills", record)
    return int(record["lost"] > 0)


LOST = ("resumed in vain", "other weights", "another log", "logs with a gap")
"""What must never be counted."""

if __name__ == "__main__":
    sys.exit(main())
