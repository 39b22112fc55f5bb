"""Kill trainings while they write snapshots, go on from what is on the disk, and compare with one left alone.

Run from the root of the repository, on Linux or macOS::

    python -m benchmarks.snapshot_kills --kills 200

A training writes a snapshot at every third step, so that most kills fall into the writing of one. After each
kill every snapshot that is listed has to load, and has to be the training at its step, bit by bit. Then it
goes on from the newest, until it has come to its end, where it is compared once more, and another begins.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
from benchmarks.reliability.page import keep
from torch import Tensor, nn

from foreshock.recorder import Recorder, Snapshot, list_snapshots, load_snapshot

STEPS, EVERY = 90, 3
_KEPT = 3
_WITHIN = 0.4  # seconds from the start of a training to its end by SIGKILL, at most


class Trial:
    """A training that goes on from the newest snapshot of a folder, or begins.

    Args:
        folder: Where snapshots go.
    """

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.model = nn.Sequential(nn.Linear(64, 500), nn.Dropout(0.1), nn.Tanh(), nn.Linear(500, 64))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.recorder = Recorder(last=3, every=EVERY, keep=_KEPT)
        self.first = 0

    def resume(self) -> None:
        """Go on from the newest snapshot, if there is one."""
        if list_snapshots(self.folder):
            snapshot = load_snapshot(self.folder)
            snapshot.restore(self.model, self.optimizer)
            self.optimizer.step()
            self.first = snapshot.step + 1

    def run(self) -> list[str]:
        """Train to the end; return a fingerprint of each step."""
        self.recorder.attach(self.model, [self.optimizer])
        found = []
        for step in range(self.first, STEPS):
            batch = torch.randn(16, 64)
            self.optimizer.zero_grad()
            (self.model(batch) - batch.sin()).square().mean().backward()  # type: ignore[no-untyped-call]
            found.append(fingerprint(self.tensors()))
            self.recorder.take(step)
            if step % EVERY == 0:
                self.recorder.write(self.folder, reason="a trial")
            self.optimizer.step()
        self.recorder.close()
        return [*found, fingerprint(self.tensors())]

    def tensors(self) -> dict[str, Tensor]:
        """Return what a snapshot of the present step must have."""
        found = {f"parameter/{name}": one for name, one in self.model.named_parameters()}
        for name, one in self.model.named_parameters():
            found[f"gradient/{name}"] = torch.zeros(0) if one.grad is None else one.grad
            for key, value in self.optimizer.state[one].items() if one in self.optimizer.state else ():
                found[f"optimizer/0/{name}/{key}"] = value
        return found


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of tensors.

    Args:
        tensors: Tensors by name.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().numpy().tobytes())
    return digest.hexdigest()


def kill_trainings(folder: Path, *, kills: int, seed: int = 0) -> Counter[str]:
    """Return what came of so many kills.

    Args:
        folder: A folder for snapshots.
        kills: How many.
        seed: Of the moments.
    """
    choose = random.Random(seed)  # noqa: S311 - moments, no secrets
    expected = Trial(folder / "alone").run()
    counts: Counter[str] = Counter(kills=0)
    place = folder / "0"
    while counts["kills"] < kills:
        child = _started(place)
        time.sleep(choose.random() * _WITHIN)
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            counts["kills"] += 1
        counts += _look(place, expected)
        if ended:
            counts["trainings"] += 1
            counts["failed"] += status != 0
            end = (place / "end").read_text() if (place / "end").exists() else ""
            counts["other weights"] += end != expected[-1]
            shutil.rmtree(place)
            place = folder / str(counts["trainings"])
    return counts


def _look(place: Path, expected: list[str]) -> Counter[str]:
    """Return what is on the disk after a kill."""
    paths = list_snapshots(place)
    partial = len(list((place / "snapshots").glob(".partial-*"))) if place.exists() else 0
    counts = Counter({"snapshots": len(paths), "torn while written": partial})
    for path in paths:
        try:
            snapshot = load_snapshot(path)
        except ValueError:
            counts["damaged"] += 1
        else:
            counts["wrong"] += fingerprint(_relevant(snapshot)) != expected[snapshot.step]
    return counts


def _relevant(snapshot: Snapshot) -> dict[str, Tensor]:
    parts = ("parameter/", "gradient/", "optimizer/")
    return {name: one for name, one in snapshot.tensors.items() if name.startswith(parts)}


def _started(place: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            place.mkdir(parents=True, exist_ok=True)
            trial = Trial(place)
            trial.resume()
            (place / "end").write_text(trial.run()[-1])
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a forked process must not come back
            traceback.print_exc()
            os._exit(1)
    return child


def main() -> int:
    """Kill, and return 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.snapshot_kills", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=200, help="how often a training is killed")
    parser.add_argument("--publish", action="store_true", help="keep the counts for docs/reliability.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        counts = kill_trainings(Path(name), kills=options.kills)
    record = {**counts, "lost": sum(counts[what] for what in LOST)}
    record |= {"torch": torch.__version__, "date": dt.datetime.now(dt.UTC).date().isoformat()}
    sys.stdout.write(json.dumps(record, indent=2) + "\n")
    if options.publish:
        keep("snapshot_kills", record)
    return int(record["lost"] > 0)


LOST = ("failed", "other weights", "damaged", "wrong")
"""What must never be counted."""

if __name__ == "__main__":
    sys.exit(main())
