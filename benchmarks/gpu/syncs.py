"""How often watching makes the host wait for the device.

``torch.cuda.set_sync_debug_mode`` knows: in its mode "warn" each wait is counted, in its mode "error" it is
an error. A step that logs nothing is run in the second mode as a whole: forward, backward, `observe` and
`optimizer.step`. On a processor nothing waits; there reads are counted as `benchmarks.host_reads` does it.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from benchmarks.gpu.models import (
    TINY,
    Batch,
    Size,
    bfloat16_loss,
    make_batches,
    make_model,
    make_optimizer,
)
from benchmarks.gpu.setting import Keep, Result, Setting
from benchmarks.host_reads import counted
from torch import nn

import foreshock
from foreshock.runlog import read_run

_LOG_EVERY = 10
_SETTLED, _COUNTED = 150, 60  # steps; a multiple of ten is counted
_OPTIMIZERS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "capturable": {"capturable": True},
    "foreach": {"foreach": True},
}
_SMALL = Size(width=128, layers=4, heads=4, length=64, sequences=8, vocabulary=1000)


def measure(setting: Setting, keep: Keep) -> None:
    """Count the waits of each watcher under each optimizer."""
    rows: list[Result] = []
    kinds = dict(_OPTIMIZERS)
    if not setting.is_cuda:
        del kinds["capturable"]  # torch captures on accelerators only
    for name, options in kinds.items():
        for watcher, watch in WATCHERS.items():
            rows.append({"optimizer": name, "watcher": watcher} | _count(setting, options, watch))
            keep({"rows": rows})


def _monitor(budget: float) -> Callable[..., Any]:
    def watch(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Any:
        return foreshock.Monitor(
            model, optimizer, bfloat16_loss, budget=budget, log_every=_LOG_EVERY, run=folder
        ).observe

    return watch


def _guard(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Any:  # noqa: ARG001
    foreshock.guard(optimizer)
    return lambda *_: None


def _late_guard(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Any:  # noqa: ARG001
    foreshock.guard(optimizer, wait=False)
    return lambda *_: None


WATCHERS: dict[str, Callable[..., Any] | None] = {
    "nobody": None,
    "monitor, budget 0": _monitor(0.0),
    "monitor, budget .05": _monitor(0.05),
    "guard, idle": _guard,
    "guard, wait=False": _late_guard,
}


def _count(setting: Setting, options: dict[str, bool], watch: Callable[..., Any] | None) -> Result:
    size = TINY if setting.tiny else _SMALL
    model, batches = make_model(size, setting), make_batches(size, setting)
    optimizer = make_optimizer(model, **options)
    settled = 60 if setting.tiny else _SETTLED
    # Where steps are slow numbers are also read back each half second; counted are those that fall due.
    patient = mock.patch("foreshock.monitor.monitor._LONGEST_SILENCE", math.inf)
    with patient, tempfile.TemporaryDirectory() as folder:
        observe = None if watch is None else watch(model, optimizer, folder)
        for step in range(settled):
            _step(model, optimizer, batches[step % len(batches)], observe)
        counts = []
        for step in range(settled, settled + _COUNTED):
            with _waits(setting) as found:
                _step(model, optimizer, batches[step % len(batches)], observe)
            counts.append(found())
        first = settled + _COUNTED
        # From these counts: which steps of ten read numbers back. The others must not wait at all.
        reading = {place % _LOG_EVERY for place, count in enumerate(counts) if count}
        refused = _refused(setting, model, optimizer, batches, observe, first=first, reading=reading)
        probed = _probed(observe, folder, settled)
    plain = [count for place, count in enumerate(counts) if place not in probed]
    return {
        "steps": len(counts),
        "steps_without": counts.count(0),
        "every_step": statistics.median(counts),
        "logged_step": max((count for count in plain if count), default=0),
        "probe_step": max((counts[place] for place in probed), default=None),
        "reading_steps_of_ten": len(reading),
        "refused": refused,
    }


def _probed(observe: Any, folder: str, first: int) -> set[int]:
    """Return which of the counted steps something was measured at, by the log."""
    if observe is None or not hasattr(observe, "__self__"):
        return set()
    observe.__self__.close()
    records = read_run(folder).records
    steps = {row["step"] for kind in ("curvature", "noise") for row in records.get(kind, ())}
    return {step - first for step in steps if 0 <= step - first < _COUNTED}


def _refused(
    setting: Setting,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    observe: Any,
    *,
    first: int,
    reading: set[int],
) -> Result:
    """Run whole steps in the mode in which a wait is an error, all but those that read numbers back."""
    passed, raised = 0, []
    for place in range(_COUNTED):
        batch = batches[(first + place) % len(batches)]
        if place % _LOG_EVERY in reading:
            _step(model, optimizer, batch, observe)
            continue
        try:
            with _no_wait(setting):
                _step(model, optimizer, batch, observe)
            passed += 1
        except RuntimeError as error:
            raised.append(str(error).splitlines()[0])
    return {"passed": passed, "raised": len(raised), "messages": sorted(set(raised))[:3]}


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, observe: Any) -> None:
    optimizer.zero_grad()
    loss = bfloat16_loss(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    if observe is not None:
        observe(batch, loss)
    optimizer.step()


@contextmanager
def _waits(setting: Setting) -> Iterator[Callable[[], int]]:
    if not setting.is_cuda:
        with counted() as reads:
            yield lambda: reads.device
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum("synchroniz" in str(one.message) for one in caught)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _no_wait(setting: Setting) -> Iterator[None]:
    if not setting.is_cuda:
        with counted() as reads:
            yield
        if reads.device:
            raise RuntimeError(f"{reads.device} reads, each of which would be a synchronizing operation")
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
