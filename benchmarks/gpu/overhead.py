"""What watching adds to a training step of GPT-124M, in time and in memory.

One copy of the model for each watcher and one that nobody watches, all in one process: a block of steps of
each, in an order that turns from round to round, so that a device that slows down slows all. The device is
waited for at the end of each block only: what a step queues may run behind the next one, as in a user's loop.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.models import (
    GPT_124M,
    TINY,
    Batch,
    Size,
    bfloat16_loss,
    count_parameters,
    make_batches,
    make_model,
    make_optimizer,
)
from benchmarks.gpu.setting import Keep, Result, Setting, peak_memory, synchronize
from torch import nn

import foreshock
from foreshock.runlog import read_run

PLAIN = "nobody"
_GUARD_PASSES = 2.0  # of a measurement of a guard
_OPENING = 100
"""Watched steps that do not count as steady: what is measured first is paid over the steps that follow."""


class _Side:
    """One copy of the training, who watches it, and what its blocks took.

    Args:
        name: Who watches.
        model: The copy.
    """

    def __init__(self, name: str, model: nn.Module) -> None:
        self.name, self.model = name, model
        self.optimizer = make_optimizer(model, fused=True)
        self.observe: Callable[[Batch, torch.Tensor], Any] | None = None
        self.close: Callable[[], Any] = lambda: None
        self.passes: Callable[[], float] = lambda: 0.0  # forward-backward passes that measurements count
        self.seconds: list[float] = []
        self.memory: int | None = None
        self.kept = self.steps = 0

    @property
    def state(self) -> int:
        """Bytes of parameters, gradients and optimizer state."""
        return 4 * sum(p.numel() * p.element_size() for p in self.model.parameters())

    def note(self, before: int, peak: int, after: int) -> None:
        """Note what was allocated before a block, at most inside of it, and after it, by all copies."""
        self.memory = max(self.memory or 0, peak - before + self.kept + self.state)
        self.kept += after - before


def measure(setting: Setting, keep: Keep) -> None:
    """Time blocks of all copies in turn until the time is over; keep what is known after each round."""
    size, block = (TINY, 5) if setting.tiny else (GPT_124M, 20)
    batches = make_batches(size, setting)
    with tempfile.TemporaryDirectory() as folder:
        sides = [_open(name, size, setting, Path(folder)) for name in (PLAIN, *WATCHERS)]
        for side in sides:  # kernels are chosen, memory is taken: nobody watches yet
            _block(side, batches, 3, setting, observe=False)
        number, last = 0, 0.0
        while number < 2 or (setting.left > 1.5 * last and not (setting.tiny and number >= 4)):
            began = time.monotonic()
            for place in range(len(sides)):
                side = sides[(number + place) % len(sides)]
                with peak_memory(setting) as peak:
                    before = _allocated(setting)
                    side.seconds.append(_block(side, batches, block, setting))
                    if setting.is_cuda:
                        side.note(before, peak() or 0, _allocated(setting))
            number, last = number + 1, time.monotonic() - began
            keep(summary(sides, size, block))
        for side in sides:
            side.close()
        keep(summary(sides, size, block, spent=[side.passes() for side in sides]))


def _open(name: str, size: Size, setting: Setting, folder: Path) -> _Side:
    side = _Side(name, make_model(size, setting))
    if name in WATCHERS:
        WATCHERS[name](side, folder / name.rpartition(".")[2])
    return side


def _monitor(budget: float) -> Callable[[_Side, Path], None]:
    def watch(side: _Side, folder: Path) -> None:
        monitor = foreshock.Monitor(side.model, side.optimizer, bfloat16_loss, budget=budget, run=folder)
        side.observe, side.close = monitor.observe, monitor.close
        side.passes = lambda: _logged_passes(folder)

    return watch


def _guard(side: _Side, folder: Path) -> None:  # noqa: ARG001 - a guard writes no files
    side.close = foreshock.guard(side.optimizer).detach


def _late_guard(side: _Side, folder: Path) -> None:  # noqa: ARG001
    side.close = foreshock.guard(side.optimizer, wait=False).detach


def _clipping(side: _Side, folder: Path) -> None:  # noqa: ARG001
    """Clip at a norm that is never reached: what torch takes for the same norm."""
    parameters = list(side.model.parameters())
    side.observe = lambda *_: nn.utils.clip_grad_norm_(parameters, 1e9)


def _measuring_guard(side: _Side, folder: Path) -> None:  # noqa: ARG001
    guard = foreshock.guard(side.optimizer)
    spent: list[bool] = []
    side.observe = lambda batch, _: spent.append(guard.measure(side.model, bfloat16_loss, batch))
    side.close, side.passes = guard.detach, lambda: _GUARD_PASSES * sum(spent)


def _logged_passes(folder: Path) -> float:
    records = read_run(folder).records
    return sum(row["passes"] for kind in ("curvature", "noise") for row in records.get(kind, ()))


WATCHERS: dict[str, Callable[[_Side, Path], None]] = {
    "monitor, budget 0": _monitor(0.0),
    "monitor, budget .05": _monitor(0.05),
    "clip_grad_norm_ alone": _clipping,
    "guard, idle": _guard,
    "guard, wait=False": _late_guard,
    "guard with measure": _measuring_guard,
}


def _block(side: _Side, batches: list[Batch], count: int, setting: Setting, *, observe: bool = True) -> float:
    """Return the seconds of a step."""
    synchronize(setting)
    began = time.perf_counter()
    for _ in range(count):
        batch = batches[side.steps % len(batches)]
        side.steps += 1
        side.optimizer.zero_grad()
        loss = bfloat16_loss(side.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        if observe and side.observe is not None:
            side.observe(batch, loss)
        side.optimizer.step()
    synchronize(setting)
    return (time.perf_counter() - began) / count


def summary(sides: list[_Side], size: Size, block: int, *, spent: Sequence[float] = ()) -> Result:
    """Return what the blocks say so far.

    Args:
        sides: The copies, the one that nobody watches first.
        size: Sizes of the model.
        block: Steps of a block.
        spent: Forward-backward passes that measurements counted, of each copy; empty while they go on.
    """
    plain = sides[0].seconds
    opening = -(-_OPENING // block)
    rows = []
    # What the monitor that measures nothing takes, and the guard that does not.
    free = {
        side.name.partition(" ")[0].strip(","): sum(side.seconds) / sum(plain) - 1
        for side in sides
        if side.name in ("monitor, budget 0", "guard, idle")
    }
    for side, passes in zip(sides[1:], spent[1:] or [0.0] * len(sides), strict=False):
        ratios = [watched / alone - 1 for watched, alone in zip(side.seconds, plain, strict=True)]
        later = slice(opening, None)
        rows.append(
            {
                "watcher": side.name,
                "usual_block": statistics.median(ratios),
                "total": sum(side.seconds) / sum(plain) - 1,
                "steady": sum(side.seconds[later]) / sum(plain[later]) - 1 if len(plain) > opening else None,
                "memory": side.memory,
                "passes": passes,
                "pass_in_steps": _pass_in_steps(
                    side,
                    plain,
                    passes,
                    free=free.get(side.name.partition(" ")[0].strip(","), 0.0),
                    block=block,
                ),
                "blocks_ms": [1e3 * one for one in side.seconds],
            }
        )
    step = statistics.median(plain)
    return {
        "parameters": count_parameters(sides[0].model),
        "tokens": size.length * size.sequences,
        "step_ms": 1e3 * step,
        "tokens_per_second": size.length * size.sequences / step,
        "memory": sides[0].memory,
        "steps": len(plain) * block,
        "block": block,
        "opening": opening * block,
        "plain_ms": [1e3 * one for one in plain],
        "rows": rows,
    }


def _pass_in_steps(
    side: _Side, plain: Sequence[float], passes: float, *, free: float, block: int
) -> float | None:
    """Return what a counted pass takes, in plain steps, beyond what the free signals take."""
    if not passes:
        return None
    beyond = sum(side.seconds) - (1 + free) * sum(plain)
    return beyond * block / (passes * statistics.median(plain))


def _allocated(setting: Setting) -> int:
    return torch.cuda.memory_allocated() if setting.is_cuda else 0
