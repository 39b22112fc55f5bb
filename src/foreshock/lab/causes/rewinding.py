"""The labelled set with recovery: does a run that fails end where the same run ends that never failed?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from foreshock.explain import CAUSES, Name
from foreshock.lab.causes.disturbances import DISTURBANCES, Disturbance
from foreshock.lab.causes.scenario import Scenario
from foreshock.lab.causes.training import advance, make_optimizer, make_task, record_spike, resume
from foreshock.lab.jobs import write_json
from foreshock.monitor import Ladder, Monitor, RecoveryFailedError
from foreshock.recorder import Recorder
from foreshock.runlog import read_run

TOLERANCE = 0.02
OUTCOMES = ("back", "said before", "said after", "neither")
HEADERS = ("cause", "runs", *OUTCOMES, "back without", "steps lost")
"""Of the rows that `tally` returns."""

_AFTER = 120  # steps that are kept after the failure, so that there is an end to compare
_WINDOW = 300  # steps: what comes again within them is the same trouble, as nothing else is done to a run
_EVERY = 10  # steps from one snapshot to the next
_PASSED_OVER = (0, 10)  # batches that a twin passes over where the other one fails
_JUDGED, _EVALUATED = 10, 16  # last steps whose losses count, and the batches that they are taken on
_LONGEST = 3  # times the steps of the twin
_PERTURBATION = 1e-6
_WITHOUT_A_TWIN = "level before"
_FRESH = 60  # first held-out draw that was never looked at: those of other figures are below


def record_recovery(cause: Name, index: int, start: int, spikes: Path, folder: Path) -> Path:
    """Train one spike of the labelled set with recovery, without, and as if nothing had been done to it.

    Args:
        cause: One of `foreshock.explain.CAUSES`.
        index: Which draw.
        start: Which perturbation of the initial weights.
        spikes: Where `record_spike` leaves its logs; the draw is recorded there if it was not.
        folder: Where results go.

    Returns:
        The file with what came of it.
    """
    truth_file = _truth(cause, index, spikes)
    if not truth_file.exists():
        record_spike(cause, index, spikes)
    truth = json.loads(truth_file.read_text(encoding="utf-8"))
    scenario, onset = _scenario(truth["scenario"]), int(truth["onset"])
    scenario = replace(scenario, steps=onset + _AFTER)
    name = f"{scenario.name}-{start}"
    for left in (f"{name}-failing", name):  # by a command that was interrupted
        shutil.rmtree(folder / "logs" / left, ignore_errors=True)
    failing = _Run(scenario, start, folder / "logs" / f"{name}-failing")
    failed = failing.train()
    recovering = _Run(scenario, start, folder / "logs" / name, recovery=True)
    result = {
        "cause": cause,
        "index": index,
        "start": start,
        "split": scenario.split,
        "family": scenario.family,
        "how": scenario.how.get("kind", ""),
        "onset": onset,
        "recovered": _number(recovering.train()),
        "failed": _number(failed),
        "twins": _twins(scenario, start, onset, failing),
        "twin": _twin_of(scenario),
        "lost_steps": recovering.lost,
        **_said(folder / "logs" / name),
    }
    return write_json(result, result_file(cause, index, start, folder))


def drawn(count: int, *, release: bool) -> list[tuple[Name, int]]:
    """Return the spikes of one half, each as cause and number of the draw; all causes by turns.

    Gradient noise, a spike that some draws of batches make and others don't, is left out.

    Args:
        count: How many of each cause both halves have together.
        release: Whether the held-out half is meant.
    """
    indices = range(_FRESH, _FRESH + count, 2) if release else range(1, count, 2)
    return [(cause, index) for index in indices for cause in CAUSES if cause != "gradient noise"]


def is_recorded(cause: Name, index: int, spikes: Path) -> bool:
    """Return whether `record_spike` has recorded a spike.

    Args:
        cause: One of `foreshock.explain.CAUSES`.
        index: Which draw.
        spikes: Where its logs are.
    """
    return _truth(cause, index, spikes).exists()


def _truth(cause: Name, index: int, spikes: Path) -> Path:
    return spikes / f"{cause.replace(' ', '-')}-{index}" / "truth.json"


def result_file(cause: Name, index: int, start: int, folder: Path) -> Path:
    """Return where `record_recovery` writes.

    Args:
        cause: One of `foreshock.explain.CAUSES`.
        index: Which draw.
        start: Which perturbation of the initial weights.
        folder: Of the results.
    """
    return folder / f"{cause.replace(' ', '-')}-{index}-{start}.json"


def outcome(result: dict[str, Any]) -> str:
    """Return what a recovery came to, one of `OUTCOMES`.

    Said before is that it can't be brought back if nothing had been tried by then, and after if it had.

    Args:
        result: What `record_recovery` wrote.
    """
    end = result["recovered"]
    if end is not None and end <= (1 + TOLERANCE) * max(result["twins"]):
        return "back"
    if not result["said"]:
        return "neither"
    tried = [name for name in result["measures"] if name != "rewind: stop"]
    return "said after" if tried else "said before"


def came_back_by_itself(result: dict[str, Any]) -> bool:
    """Return whether the run that nobody brought back ended where its twin did.

    Args:
        result: What `record_recovery` wrote.
    """
    return result["failed"] is not None and result["failed"] <= (1 + TOLERANCE) * max(result["twins"])


class _Run:
    """One training of a scenario, with recovery or without, to an end with as many steps that count."""

    def __init__(
        self, scenario: Scenario, start: int, folder: Path | None, *, recovery: bool = False
    ) -> None:
        self.scenario, self.folder, self.lost = scenario, folder, 0
        self.task = make_task(scenario)
        _perturb(self.task.model, start)
        self.losses: list[float] = []
        self._recovery = recovery
        self._evaluation = list(islice(make_task(scenario).batches, _EVALUATED if scenario.batch_size else 1))

    def train(self, *, passed_over: tuple[int, int] = (-1, 0), disturbed: bool = True) -> float:
        """Train; return the loss at the end, NaN if it is not finite.

        Args:
            passed_over: A step, and how many batches are passed over there.
            disturbed: Whether what makes it fail is done.
        """
        scenario = self.scenario
        made = DISTURBANCES.get(scenario.cause, Disturbance) if disturbed else Disturbance
        disturbance = made(scenario, self.task)
        optimizer = make_optimizer(scenario, disturbance.parameters())
        monitor = self._monitor(disturbance, optimizer) if self.folder is not None else None
        judged: list[float] = []
        step = kept = 0
        while kept < scenario.steps and step < _LONGEST * scenario.steps:
            if step == passed_over[0]:
                next(islice(self.task.batches, passed_over[1], None), None)
            lost = disturbed and scenario.cause == "lost optimizer state" and step == scenario.at
            if lost and monitor is not None and self.folder is not None:
                optimizer, monitor = resume(
                    scenario, self.task, optimizer, monitor, run=self.folder, **self._options()
                )
            try:
                self.losses.append(advance(step, disturbance, optimizer, monitor))
            except RecoveryFailedError:
                judged.append(self._evaluated())
                break
            step += 1
            kept = step - (0 if monitor is None else _undone(monitor))
            if kept > scenario.steps - _JUDGED:
                judged.append(self._evaluated())
        if monitor is not None:
            self.lost = _undone(monitor)
            monitor.close()
        return sum(judged[-_JUDGED:]) / max(len(judged[-_JUDGED:]), 1)

    def _options(self) -> dict[str, Any]:
        if not self._recovery:
            return {}
        return {"recorder": Recorder(every=_EVERY, last=8), "recovery": Ladder(window=_WINDOW)}

    def _monitor(self, disturbance: Disturbance, optimizer: torch.optim.Optimizer) -> Monitor:
        return Monitor(
            self.task.model,
            optimizer,
            disturbance.loss_fn,
            run=self.folder,
            budget=self.scenario.budget,
            **self._options(),
        )

    @torch.no_grad()
    def _evaluated(self) -> float:
        values = [float(self.task.loss_fn(self.task.model, batch)) for batch in self._evaluation]
        return sum(values) / len(values)


def _undone(monitor: Monitor) -> int:
    """Return how many steps were taken back so far."""
    return sum(one.step - one.to for one in monitor.rewinds)


def _twins(scenario: Scenario, start: int, onset: int, failing: _Run) -> list[float]:
    """Return where the run ends that never failed; more than once where batches differ."""
    if _twin_of(scenario) == _WITHOUT_A_TWIN:
        before = failing.losses[max(onset - 60, 0) : max(onset - 10, 1)]
        return [median(before)]
    found = []
    for count in _PASSED_OVER if scenario.batch_size else _PASSED_OVER[:1]:
        disturbed = scenario.cause == "parameters changed"
        how = {**scenario.how, "times": 1.0} if disturbed else scenario.how
        twin = _Run(replace(scenario, how=how), start, None)
        found.append(twin.train(passed_over=(onset, count), disturbed=disturbed))
    return found


def _twin_of(scenario: Scenario) -> str:
    """Return what a scenario is compared with."""
    spontaneous = scenario.cause in ("preconditioner lag", "landscape", "gradient noise")
    if spontaneous or (scenario.cause == "learning rate" and scenario.how["kind"] != "jump"):
        return _WITHOUT_A_TWIN
    return "unfrozen at the run's own rate" if scenario.cause == "parameters changed" else "nothing done"


def _said(folder: Path) -> dict[str, Any]:
    """Return what a log says of recovery: the measures, and whether and why it was given up."""
    events = read_run(folder).records["event"]
    measures = [row["name"] for row in events if row["name"].startswith("rewind")]
    given_up = [row["message"] for row in events if row["name"].startswith("recovery")]
    return {"measures": measures, "said": given_up[0] if given_up else ""}


def _scenario(fields: dict[str, Any]) -> Scenario:
    return Scenario(**{**fields, "betas": tuple(fields["betas"])})


@torch.no_grad()
def _perturb(model: nn.Module, start: int) -> None:
    generator = torch.Generator().manual_seed(start)
    for parameter in model.parameters() if start else ():
        parameter.mul_(1 + _PERTURBATION * torch.randn(parameter.shape, generator=generator))


def _number(value: float) -> float | None:
    return value if value < float("inf") else None  # NaN too


def tally(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return a row of words for each cause, and one for all.

    Args:
        results: What `record_recovery` wrote.
    """
    rows = []
    for cause in [*dict.fromkeys(one["cause"] for one in results), "all"]:
        of_cause = [one for one in results if cause in (one["cause"], "all")]
        outcomes = [outcome(one) for one in of_cause]
        rows.append(
            [
                cause,
                str(len(of_cause)),
                *(str(outcomes.count(name)) for name in OUTCOMES),
                str(sum(map(came_back_by_itself, of_cause))),
                f"{median(one['lost_steps'] for one in of_cause):.0f}",
            ]
        )
    return rows


def results_of(runs: Iterable[tuple[Name, int, int]], folder: Path) -> list[dict[str, Any]]:
    """Return the results that `record_recovery` wrote; what is not there is left out.

    Args:
        runs: Which: cause, draw and start.
        folder: Where they are.
    """
    paths = [result_file(*one, folder) for one in runs]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
