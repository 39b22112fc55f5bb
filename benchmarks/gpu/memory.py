"""A device without memory for a probe: the probe is made another way or left out, and training goes on.

The memory that this process may take is limited to a little more than a plain step takes at its peak
(``torch.cuda.set_per_process_memory_fraction``). A copy of the training that is watched under that limit has
to end with the same weights bit by bit as one that nobody watched, and to hold no more memory after a probe
than before it.
"""

from __future__ import annotations

import gc
import tempfile
from typing import Any

import torch
from benchmarks.gpu.models import Batch, Size, bfloat16_loss, make_batches, make_model, make_optimizer
from benchmarks.gpu.setting import Keep, Result, Setting, peak_memory
from torch import Tensor, nn

import foreshock
from foreshock.runlog import read_run

_SIZE = Size(width=512, layers=8, heads=8, length=512, sequences=16, vocabulary=8000)
_STEPS, _PROBE_EVERY = 40, 10
_ROOM = (4.0, 2.5, 1.05)
"""Memory as a multiple of what a plain step takes at its peak: enough for differences, and for no probe."""


def measure(setting: Setting, keep: Keep) -> None:
    """Train plain, then watched under each limit, and compare."""
    if not setting.is_cuda:
        keep({"rows": [], "note": "memory can be limited on a GPU only"})
        return
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)  # flash attention can be had deterministic
    batches = make_batches(_SIZE, setting, count=8)
    with peak_memory(setting):
        plain = _train(setting, batches, None)
        # What was taken from the device, with what lies between tensors: that is what is limited.
        step_peak = torch.cuda.max_memory_reserved()
    again = _train(setting, batches, None)
    repeatable = all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    del again
    rows: list[Result] = []
    for factor in _ROOM:
        rows.append({"factor": factor} | _limited(setting, batches, plain, int(step_peak * factor)))
        keep(
            {
                "step_peak": step_peak,
                "weights": _held(plain),
                "repeatable": repeatable,
                "steps": _STEPS,
                "rows": rows,
            }
        )


def _limited(setting: Setting, batches: list[Batch], plain: list[Tensor], allowed: int) -> Result:
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    with tempfile.TemporaryDirectory() as folder:
        watch = _Watch(folder)
        torch.cuda.set_per_process_memory_fraction(min(1.0, (allowed + _held(plain)) / total))
        trained, ended = None, ""
        try:
            trained = _train(setting, batches, watch)
        except torch.OutOfMemoryError as error:
            ended = str(error).partition(". GPU")[0]
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        run = read_run(folder)
        events = [row for row in run.records.get("event", ()) if row["name"] in ("probe failed", "backend")]
        return {
            "allowed": allowed,
            "same_bits": trained is not None
            and all(torch.equal(a, b) for a, b in zip(plain, trained, strict=True)),
            "training_ended": ended,
            "probes": len(run.records.get("curvature", ())),
            "failed": sum(row["name"] == "probe failed" for row in events),
            "messages": list(dict.fromkeys(row["message"] for row in events))[:3],
            "left_behind": max(after - before for before, after in watch.held),
        }


def _held(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Watch:
    """Observe, and note what is allocated before and after it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.held: list[tuple[int, int]] = []
        self.monitor: Any = None

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.monitor = foreshock.Monitor(
            model, optimizer, bfloat16_loss, probe_every=_PROBE_EVERY, run=self.folder, full_batch=True
        )

    def observe(self, batch: Batch, loss: Tensor) -> None:
        before = torch.cuda.memory_allocated()
        self.monitor.observe(batch, loss)
        self.held.append((before, torch.cuda.memory_allocated()))


def _train(setting: Setting, batches: list[Batch], watch: _Watch | None) -> list[Tensor]:
    model = make_model(_SIZE, setting)
    optimizer = make_optimizer(model, fused=True)
    if watch is not None:
        watch.begin(model, optimizer)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = bfloat16_loss(model, batches[0])
        loss.backward()  # type: ignore[no-untyped-call]
        if watch is not None:
            watch.observe(batches[0], loss)
        optimizer.step()
    if watch is not None:
        watch.monitor.close()
    return [parameter.detach().clone() for parameter in model.parameters()]
