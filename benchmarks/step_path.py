"""Count the files and functions of Foreshock through which one training step passes.

Run from the root of the repository::

    python -m benchmarks.step_path

What a step passes through is what a reader has to open to follow it. Counted are the modules of ``foreshock``
whose code runs, and the functions in them, by a profiling hook: in a monitored step without a probe, in one
with a probe, in a guarded step on which the guard is idle, and in one on which it measures the secant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import foreshock

_ROOT = str(Path(foreshock.__file__).parent)
_SETTLED = 120  # steps after which schedules and windows are in their usual state
_COUNTED = 16  # consecutive steps, among which are those with and without a measurement


class StepPath:
    """The functions of Foreshock that ran, as (file, line of the definition)."""

    def __init__(self) -> None:
        self.functions: set[tuple[str, int]] = set()

    @property
    def files(self) -> list[str]:
        """The files, relative to the package, sorted."""
        return sorted({name for name, _ in self.functions})


@contextmanager
def traced() -> Iterator[StepPath]:
    """Record which functions of Foreshock run inside the block."""
    found = StepPath()

    def look(frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(_ROOT):
            found.functions.add((name[len(_ROOT) + 1 :], frame.f_code.co_firstlineno))

    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)


def network() -> tuple[nn.Module, torch.optim.Optimizer, Callable[[nn.Module, Any], Tensor], list[Tensor]]:
    """Return a small network, Adam, a loss function and a few batches of fresh data."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    batches = [torch.randn(16, 8, generator=generator) for _ in range(_SETTLED + _COUNTED)]
    return (
        model,
        torch.optim.Adam(model.parameters(), lr=1e-3),
        lambda model, batch: (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean(),
        batches,
    )


def observed_step(*, probe: bool) -> StepPath:
    """Return what one call of `Monitor.observe` passes through.

    Args:
        probe: Whether the step is one with a probe.
    """
    model, optimizer, loss_fn, batches = network()
    with foreshock.Monitor(model, optimizer, loss_fn, probe_every=_SETTLED) as monitor:
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            # The step after one of the first probes looks at the gradients of both.
            if step == (_SETTLED if probe else _SETTLED + 2):
                with traced() as found:
                    monitor.observe(batch, loss)
                return found
            monitor.observe(batch, loss)
            optimizer.step()
    raise AssertionError("there are too few batches")


def guarded_step(*, idle: bool) -> StepPath:
    """Return what one ``optimizer.step()`` under a guard passes through, on which it does nothing.

    Args:
        idle: The step with the fewest functions of sixteen, or that with the most: one of eight measures the
            secant.
    """
    model, optimizer, loss_fn, batches = network()
    found = []
    with foreshock.guard(optimizer):
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            loss_fn(model, batch).backward()  # type: ignore[no-untyped-call]
            with traced() as path:
                optimizer.step()
            if step >= _SETTLED:
                found.append(path)
    return (min if idle else max)(found, key=lambda path: len(path.functions))


def counts() -> dict[str, StepPath]:
    """Return the paths of all kinds of steps, by a description."""
    return {
        "observed, no probe": observed_step(probe=False),
        "observed, with a probe": observed_step(probe=True),
        "guarded, idle": guarded_step(idle=True),
        "guarded, measuring": guarded_step(idle=False),
    }


def main() -> None:
    """Print the counts, and the files."""
    for name, path in counts().items():
        sys.stdout.write(f"{name}: {len(path.files)} files, {len(path.functions)} functions\n")
        sys.stdout.write("".join(f"    {file}\n" for file in path.files))


if __name__ == "__main__":
    main()
