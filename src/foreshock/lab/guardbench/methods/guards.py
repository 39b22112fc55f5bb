"""Foreshock's guards, as a user attaches them: by one line, or handed to a monitor."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import foreshock
from foreshock.batches import count_examples
from foreshock.guarding import GuardAction
from foreshock.guarding.pair_prober import PAIR_INTERVAL
from foreshock.lab.guardbench.methods.adam_variants import with_short_memory
from foreshock.lab.guardbench.methods.method import Method, Subject
from foreshock.lab.guardbench.methods.muon import build_muon
from foreshock.runlog import read_run

PROBE_EVERY = 10
_CODE = ("foreshock.guarding",)
_MONITOR = (*_CODE, "foreshock.monitor", "foreshock.forecast")
RARELY = 40
_OFFERED = f"is offered each batch and measures pairs every {PAIR_INTERVAL} steps"


class CountedLoss:
    """A loss function that counts what it costs, as shares of a batch with `examples` examples.

    Args:
        loss_fn: ``loss_fn(model, batch)``.
    """

    def __init__(self, loss_fn: Any) -> None:
        self._loss_fn = loss_fn
        self.examples = 1
        self.passes = 0.0

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Evaluate; each evaluation counts as a forward and a backward pass."""
        self.passes += count_examples(batch) / self.examples
        loss: Tensor = self._loss_fn(model, batch)
        return loss


class Watched:
    """Knows of each step whether a guard changed it."""

    def __init__(self) -> None:
        self._acted = False

    def see(self, action: GuardAction) -> None:
        """Take one action into account.

        Args:
            action: What the guard tells.
        """
        self._acted |= action.changes_something

    def after_step(self) -> bool:
        """Return whether the guard changed this step."""
        acted, self._acted = self._acted, False
        return acted


class Guarding(Watched):
    """A guard on the optimizer; it is offered each batch, so that it can measure pairs.

    Args:
        subject: What is trained.
        policy: Name of the policy.
        pairs: Every how many steps it may measure pairs on the batches that it is offered; None for never.
        guarded: Which optimizer it guards, of the one that trains.
        wait: As of `foreshock.guard`.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        policy: str,
        pairs: int | None,
        guarded: Callable[[Optimizer], Optimizer] = lambda optimizer: optimizer,
        wait: bool = True,
    ) -> None:
        self._subject, self._pairs = subject, pairs
        self._loss_fn = CountedLoss(subject.loss_fn)
        super().__init__()
        self._guard = foreshock.guard(
            guarded(subject.optimizer), policy=policy, on_action=self.see, wait=wait
        )

    @property
    def passes(self) -> float:
        """What measuring cost, in F."""
        return self._loss_fn.passes

    def before_step(self, batch: Any, loss: float) -> None:
        """Offer the batch."""
        del loss
        if self._pairs is not None:
            self._loss_fn.examples = count_examples(batch)
            self._guard.measure(self._subject.model, self._loss_fn, batch, every=self._pairs)

    def close(self) -> None:
        """Detach the guard."""
        self._guard.detach()

    def buffers(self) -> Any:
        """Return what the guard holds."""
        return self._guard.buffers()


class Monitored(Watched):
    """A guard with a monitor, which tells it what it measures and forecasts.

    Args:
        subject: What is trained.
        policy: Name of the policy.
        options: Further options of the monitor.
    """

    def __init__(self, subject: Subject, *, policy: str = "auto", **options: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="foreshock-")
        super().__init__()
        self._guard = foreshock.guard(subject.optimizer, policy=policy, on_action=self.see)
        self._monitor = foreshock.Monitor(
            subject.model,
            subject.optimizer,
            subject.loss_fn,
            guard=self._guard,
            run=self._folder.name,
            **options,
        )

    @property
    def passes(self) -> float:
        """What the probes cost, in F."""
        records = read_run(self._folder.name).records
        return sum(float(one["passes"]) for kind in ("curvature", "noise") for one in records.get(kind, ()))

    def before_step(self, batch: Any, loss: float) -> None:
        """Let the monitor see the step."""
        self._monitor.observe(batch, loss)

    def close(self) -> None:
        """Detach the guard and remove the monitor's log."""
        self._monitor.close()
        self._guard.detach()
        self._folder.cleanup()

    def buffers(self) -> Any:
        """Return what guard and monitor hold."""
        return self._guard.buffers(), self._monitor.state_dict()


def _by_curvature(subject: Subject) -> Monitored:
    """Return a guard that is told λ_max every ten steps, by a monitor that knows the data."""
    known: dict[str, Any] = {"full_batch": subject.full_batch, "examples": subject.examples}
    return Monitored(subject, policy="curvature", probe_every=PROBE_EVERY, **known)


def _guard(policy: str, note: str = "", *, pairs: int | None = None) -> Method:
    name = f"guard-{policy.replace('_', '-')}"
    attach = partial(Guarding, policy=policy, pairs=pairs)
    return Method(name, "foreshock", "Foreshock", note, intervene=attach, code=_CODE)


def adamw_of(optimizer: Optimizer) -> Optimizer:
    """Return the AdamW among several optimizers; one that is alone itself.

    Args:
        optimizer: What `build_muon` returned, or another optimizer.
    """
    parts: tuple[Optimizer, ...] = getattr(optimizer, "parts", ())
    return next((part for part in parts if isinstance(part, AdamW)), optimizer)


_AUTO = _guard("auto", _OFFERED, pairs=PAIR_INTERVAL)
GUARDS = (
    _AUTO,
    replace(
        _AUTO,
        name="guard-alone",
        note="`foreshock.guard(optimizer)` and nothing else: it sees no batch",
        intervene=partial(Guarding, policy="auto", pairs=None),
    ),
    replace(
        _AUTO,
        name="guard-auto-late",
        note="`wait=False`: in mini-batches it knows ‖g‖ one step later, and clips less",
        intervene=partial(Guarding, policy="auto", pairs=PAIR_INTERVAL, wait=False),
    ),
    replace(
        _AUTO,
        name="guard-alone-late",
        note="`foreshock.guard(optimizer, wait=False)` and nothing else",
        intervene=partial(Guarding, policy="auto", pairs=None, wait=False),
    ),
    _guard("secant"),
    _guard("mean_square", _OFFERED, pairs=PAIR_INTERVAL),
    _guard("outlier"),
    _guard("epsilon", "the remedy of Bai et al. 2025"),
    _guard("beta2"),
    _guard("lr"),
    replace(
        _AUTO,
        name=f"guard-auto-every-{RARELY}",
        note=f"the same, but measures pairs every {RARELY} steps: half of the passes",
        intervene=partial(Guarding, policy="auto", pairs=RARELY),
    ),
    replace(
        _AUTO,
        name="guard-auto-beta2-0.95",
        note="on Adam with β₂ = .95: to be compared with beta2-0.95",
        configure=with_short_memory,
    ),
    replace(
        _AUTO,
        name="guard-muon",
        note="`foreshock.guard(adamw)` of the AdamW beside Muon: to be compared with muon",
        build=build_muon,
        intervene=partial(Guarding, policy="auto", pairs=None, guarded=adamw_of),
        code=(*_CODE, "foreshock.lab.guardbench.methods.muon"),
    ),
    Method(
        "guard-monitor",
        "foreshock",
        "Foreshock",
        '`Monitor(model, optimizer, loss_fn, guard="auto")`, all else as it comes',
        intervene=Monitored,
        code=_MONITOR,
    ),
    Method(
        "guard-curvature",
        "foreshock",
        "Foreshock",
        "by a monitor that probes every ten steps",
        intervene=_by_curvature,
        code=_MONITOR,
    ),
)
