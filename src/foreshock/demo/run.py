"""The demo: two real networks on real input, whose losses spike by themselves, trained under a monitor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foreshock.demo import digits_cnn, stdlib_transformer
from foreshock.demo.threads import one_thread
from foreshock.demo.workload import Workload
from foreshock.forecast import Forecast
from foreshock.monitor.monitor import Monitor

OnStep = Callable[[int, float, Forecast], None]
"""Called with step, loss and forecast after every step."""
StartRun = Callable[[Workload], OnStep]
"""Called before each network is trained; returns what to call after each step."""


def run_demo(out: Path, *, quick: bool = False, seed: int = 0, start: StartRun | None = None) -> list[Path]:
    """Train both networks under a monitor.

    Args:
        out: Folder for the two runs; earlier ones in it are replaced.
        quick: Train for less long, for a few seconds.
        seed: Seed of the initial weights.
        start: Called before each network with its workload; returns what to call after each step.

    Returns:
        The folders of the two runs.

    Raises:
        ImportError: If scikit-learn, which has the digits, is not installed.
    """
    make_digits, make_text = digits_cnn.DigitsConfig, stdlib_transformer.TransformerConfig
    digits = make_digits.quick(seed=seed) if quick else make_digits(seed=seed)
    text = make_text.quick(seed=seed) if quick else make_text(seed=seed)
    folders = []
    for workload in (digits_cnn.build(digits), stdlib_transformer.build(text)):
        on_step = start(workload) if start is not None else None
        folders.append(train_watched(workload, out / workload.name, on_step=on_step))
    return folders


def train_watched(workload: Workload, folder: Path, *, on_step: OnStep | None = None) -> Path:
    """Train a workload from its first to its last step, full batch, and log the run.

    Args:
        workload: What to train; its model ends trained.
        folder: Folder of the run; an earlier run in it is replaced.
        on_step: Called with step, loss and forecast after every step.

    Returns:
        The folder.
    """
    for log in folder.glob("rank*.jsonl"):
        log.unlink()
    model, optimizer, loss_fn = workload.model, workload.optimizer, workload.loss_fn
    meta = {"name": workload.name, "description": workload.description, "steps": workload.steps}
    monitor = Monitor(model, optimizer, loss_fn, run=folder, meta=meta)
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
