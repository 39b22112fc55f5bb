"""The plain training loop of all experiments, watched by a monitor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foreshock.demo.threads import one_thread
from foreshock.demo.workload import Workload
from foreshock.forecast import Forecast
from foreshock.monitor.monitor import Monitor

OnStep = Callable[[int, float, Forecast], None]

HORIZON = 50  # These runs spike every hundred steps or so: "within 100 steps" would always be true.


def train_watched(
    workload: Workload, folder: Path, *, probe_every: int, on_step: OnStep | None = None
) -> Path:
    """Train a workload from its first to its last step, full batch, and log the run.

    Args:
        workload: What to train; its model ends trained.
        folder: Folder of the run; an earlier run in it is replaced.
        probe_every: Steps between curvature probes.
        on_step: Called with step, loss and forecast after every step.

    Returns:
        The folder.
    """
    for log in folder.glob("rank*.jsonl"):
        log.unlink()
    model, optimizer, loss_fn = workload.model, workload.optimizer, workload.loss_fn
    meta = {"name": workload.name, "description": workload.description, "steps": workload.steps}
    monitor = Monitor(
        model, optimizer, loss_fn, run=folder, probe_every=probe_every, horizon=HORIZON, meta=meta
    )
    with one_thread(), monitor:
        for step in range(workload.steps):
            optimizer.zero_grad()
            loss = loss_fn(model, workload.batch)
            loss.backward()  # type: ignore[no-untyped-call]
            forecast = monitor.observe(workload.batch, loss)
            optimizer.step()
            if on_step is not None:
                on_step(step, loss.item(), forecast)
    return folder
