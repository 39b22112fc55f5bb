"""Who watches a training: Foreshock's monitor with several budgets and a recorder, a guard, trainscope.

Every watcher is called where its documentation says, and writes the files that it writes by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.overhead.cases import Training
from torch import Tensor

import foreshock

OURS = "foreshock"
PEER = "trainscope"
BUDGETS = (0.0, 0.02, 0.05, 0.2)
_MONITOR = "monitor, budget {:g}"
FREE = _MONITOR.format(0)
"""The watcher that has the free signals and nothing besides."""


class Watching(NamedTuple):
    """A watcher at work: what a step calls between ``backward()`` and ``step()``, and what ends it."""

    observe: Callable[[Any, Tensor], object]
    close: Callable[[], object]


@dataclass(frozen=True)
class Watcher:
    """Somebody who watches a training.

    Attributes:
        name: Its name in tables.
        open: Begins to watch a training; files go to the folder.
        budget: Forward and backward passes that it may spend in a step; None if that is not its unit.
        package: The distribution that has to be installed.
    """

    name: str
    open: Callable[[Training, Path], Watching]
    budget: float | None = None
    package: str = OURS

    @property
    def is_installed(self) -> bool:
        """Whether its package can be imported."""
        return find_spec(self.package) is not None


def watchers() -> list[Watcher]:
    """Return everybody, Foreshock first."""
    return [
        *(Watcher(_MONITOR.format(budget), _monitor(budget), budget) for budget in BUDGETS),
        Watcher(f"{FREE}, recorder", _recorder, 0.0),
        Watcher("guard, idle", _guard),
        Watcher("trainscope, default", _trainscope("default"), package=PEER),
        Watcher("trainscope, minimal", _trainscope("minimal"), package=PEER),
    ]


def nobody() -> Watching:
    """Return what the plain copy has instead of a watcher."""
    return Watching(lambda _batch, _loss: None, lambda: None)


def _monitor(budget: float) -> Callable[[Training, Path], Watching]:
    def open_(training: Training, folder: Path) -> Watching:
        monitor = foreshock.Monitor(
            training.model, training.optimizer, training.loss_fn, budget=budget, run=folder
        )
        return Watching(monitor.observe, monitor.close)

    return open_


def _recorder(training: Training, folder: Path) -> Watching:
    recorder = foreshock.Recorder()  # as often as a hundredth of the time allows
    monitor = foreshock.Monitor(
        training.model, training.optimizer, training.loss_fn, budget=0, run=folder, recorder=recorder
    )
    return Watching(monitor.observe, monitor.close)


def _guard(training: Training, folder: Path) -> Watching:  # noqa: ARG001 - a guard writes no files
    guard = foreshock.guard(training.optimizer)
    # It acts inside optimizer.step(): between backward and step there is nothing to call.
    return Watching(lambda _batch, _loss: None, guard.detach)


def _trainscope(profile: str) -> Callable[[Training, Path], Watching]:
    def open_(training: Training, folder: Path) -> Watching:
        # Imported here: it is a peer, and not installed with Foreshock.
        from trainscope import TrainScope
        from trainscope.core.config import TrainScopeConfig
        from trainscope.core.profiles import get_profile

        config = TrainScopeConfig(run_dir=str(folder), **get_profile(profile))
        scope = TrainScope(training.model, training.optimizer, config=config).attach()
        return Watching(lambda _batch, loss: scope.step(loss.item()), scope.detach)

    return open_
