"""Spikes that come by themselves: does holding v, from some fifty steps before, remove them?

Run from the root of the repository; trainings that were recorded before are not recorded again::

    python -m benchmarks.causes.holding runs/holding

The settings are those of the development half of the labelled set, for *preconditioner lag* and for *gradient
noise*. There, only spikes count that are of that cause; here, the first spike of each of two trainings (of
one where batches differ) is taken as it comes. What is found is kept as JSON beside this file.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from foreshock.explain import NOT_EXPLAINED, History, Name, causes_of
from foreshock.lab.causes.scenario import Scenario, draw_scenario
from foreshock.lab.causes.training import Snapshot, fork_before, fork_spikes, train_scenario
from foreshock.lab.jobs import write_json
from foreshock.runlog import read_run
from foreshock.runlog.values import recorded_losses
from foreshock.spikes import LossEvent, detect_events

RESULTS = Path(__file__).parent / "results" / "holding.json"
_PER_DRAW: dict[Name, int] = {"preconditioner lag": 2, "gradient noise": 1}
_ATTEMPTS = 12
_EARLIEST = 60
_BEFORE = slice(-60, -5)  # steps before the onset whose exponents count


def record(cause: Name, index: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the first spikes of the trainings of one draw, and whether each comes with v held.

    Args:
        cause: Whose settings.
        index: Which draw.
        folder: Where logs go.
    """
    found = 0
    for attempt in range(_ATTEMPTS):
        scenario = draw_scenario(cause, index, attempt)
        run = folder / f"{scenario.name}-{attempt}"
        label = run / "label.json"
        if not label.exists():
            shutil.rmtree(run, ignore_errors=True)
            if train_scenario(scenario, run, _keep_label(run)) is None:
                write_json({"onset": None}, label)
        kept = json.loads(label.read_text(encoding="utf-8"))
        if kept["onset"] is not None:
            found += 1
            yield _named(run, kept, cause)
        if found == _PER_DRAW[cause]:
            return


def _keep_label(run: Path) -> Any:
    def accepts(scenario: Scenario, event: LossEvent, snapshots: list[Snapshot]) -> bool:
        fork = fork_before(event, snapshots)
        if event.kind == "climb" or event.onset < _EARLIEST or fork is None:
            return False
        comes = fork_spikes(scenario, fork, frozen=True)
        write_json({"onset": event.onset, "near": [fork.snapshot.step, comes]}, run / "label.json")
        return True

    return accepts


def _named(run: Path, label: dict[str, Any], cause: Name) -> dict[str, Any]:
    """Return what is named first for a spike, with the exponent of v before it."""
    log = read_run(run)
    history = History(log)
    steps, losses = recorded_losses(log)
    events = detect_events(steps.tolist(), losses.tolist())
    event = next(one for one in events if one.onset == label["onset"])
    exponents = history.exponent[: history.at(event.onset)][_BEFORE]
    named = [one.name for one in causes_of(history, event)]
    return {
        "settings": cause,
        "run": run.name,
        "onset": event.onset,
        "held_from": label["near"][0],
        "comes": label["near"][1],
        "named": named[0] if named else NOT_EXPLAINED,
        "exponent": float(torch.tensor(exponents).nanmedian()),
    }


def main() -> None:
    """Record what is missing, write the results, print the counts."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/holding")
    torch.set_num_threads(1)
    rows = [row for cause in _PER_DRAW for index in range(1, 20, 2) for row in record(cause, index, folder)]
    write_json(rows, RESULTS)
    for cause in _PER_DRAW:
        of = [row for row in rows if row["settings"] == cause]
        removed = sum(not row["comes"] for row in of)
        sys.stdout.write(f"{cause}: {len(of)} spikes, {removed} removed by holding v\n")
    lag = [row for row in rows if row["named"] == "preconditioner lag"]
    for words, part in (
        ("named preconditioner lag first", lag),
        ("of these, with an exponent below .7", [row for row in lag if row["exponent"] < 0.7]),
    ):
        removed = sum(not row["comes"] for row in part)
        sys.stdout.write(f"{words}: {len(part)}, {removed} removed by holding v\n")


if __name__ == "__main__":
    main()
