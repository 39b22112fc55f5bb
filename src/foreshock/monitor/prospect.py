"""Whether going back can help, found out before it is tried.

What makes a run fail is in the weights, or it is not: then it stays when they go back. So before a snapshot
is put back the present batch is tried with its weights: one forward and one backward pass, inside of
`isolated`. If the loss or the gradient is as bad with them, on one batch after the other, other weights can't
help. Nor can they where all batches have another size than before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch

from foreshock.curvature import loss_terms
from foreshock.isolation import alone, isolated, kept_options
from foreshock.monitor.subject import Subject
from foreshock.operators import GradientFunction, normalised_terms
from foreshock.preconditioner import moving_parameters
from foreshock.recorder import Snapshot
from foreshock.recorder.model_state import check_model, model_tensors
from foreshock.recorder.state import bare

_USUAL, _FEWEST, _LATEST = 60, 10, 5  # steps whose batches are compared
_LASTING = 20  # steps: then it is no longer one bucket of several
_OTHER = 2.0  # times as many values, or as few: a batch of another size


def what_stays(snapshot: Snapshot, step: int, batch: Any, subject: Subject, *, bar: float) -> str:
    """Return what is as bad with the weights of a snapshot, in words; empty if nothing is.

    Args:
        snapshot: The snapshot, of the same model.
        step: The present step.
        batch: Its batch.
        subject: What is watched; it must have a loss function.
        bar: Loss from which on one is high; NaN if that is unknown, so that only what isn't finite counts.

    Raises:
        ProbeRefusedError: If one process can't evaluate the model by itself.
        ValueError: If the snapshot is of another model, or there is no loss function.
        Exception: Whatever the loss function raises.
    """
    model, loss_fn = subject.model, subject.loss_fn
    if loss_fn is None:
        raise ValueError("there is no loss_fn, so that no batch can be tried: pass it to Monitor")
    check_model(bare(model), snapshot.tensors)
    with alone(model), kept_options(subject.optimizers), isolated(model, loss_fn):
        with torch.no_grad():
            for name, live in model_tensors(bare(model)):
                live.copy_(snapshot.tensors[name])
        moving = moving_parameters(subject.optimizers)
        terms = normalised_terms(loss_terms(model, loss_fn, batch))
        found = GradientFunction(terms, moving, model)()
    loss = float(found.loss)
    of = f"with the weights of step {snapshot.step}, from before it, the batch of step {step} has"
    if not math.isfinite(loss):
        return f"{of} a loss of {loss}, too: look at what can overflow in the forward pass, and at the data"
    if not bool(found.gradient.isfinite().all()):
        return f"{of} a gradient that is not finite, too: look at roots, norms and divisions in the loss"
    if loss > bar:
        return (
            f"{of} a loss of {loss:.4g}, and losses up to {bar:.4g} were usual: the data or the loss "
            "function are others than before"
        )
    return ""


class BatchSizes:
    """Notice that all batches have another size from some step on.

    Example:
        >>> sizes = BatchSizes()
        >>> for step in range(40):
        ...     sizes.see(step, 640 if step < 30 else 20)
        >>> sizes.changed(since=25)
        'from step 30 on batches have 20 values and not 640: going back does not change that'
        >>> sizes.changed(since=38)
        ''
    """

    def __init__(self) -> None:
        self._sizes: deque[tuple[int, int]] = deque(maxlen=2 * _USUAL)
        self._since: int | None = None  # first step of those that are like the last one

    def see(self, step: int, elements: int | None) -> None:
        """Take the batch of a step into account.

        Args:
            step: Step number.
            elements: How many values its tensors have; None if unknown.
        """
        if not elements:
            return
        before = self._sizes[-1][1] if self._sizes else elements
        if not before / _OTHER < elements < before * _OTHER:
            self._since = step
        self._sizes.append((step, elements))

    def lasting(self, step: int) -> int | None:
        """Return the step from which on batches have another size, if that has lasted for some time.

        Args:
            step: The present step.
        """
        if self._since is None or step - self._since < _LASTING:
            return None
        return self._since if self.changed(self._since - 1) else None

    def changed(self, since: int, *, onset: int | None = None) -> str:
        """Return in words that all of the last batches are far smaller or larger; empty if they are not.

        Args:
            since: Step up to which batches are usual.
            onset: Step at which a trouble began. If they got another size right before, those from before
                that are usual: none that is remembered may be as old as `since`.
        """
        at = self._since
        if onset is not None and at is not None and onset - at <= _LATEST:
            since = at - 1
        usual = [size for step, size in self._sizes if step <= since][-_USUAL:]
        latest = [(step, size) for step, size in self._sizes if step > since]
        low, high = min(usual, default=0) / _OTHER, max(usual, default=0) * _OTHER
        others = [(step, size) for step, size in latest if not low < size < high]
        if len(usual) < _FEWEST or len(others) < _LATEST or others[-_LATEST:] != latest[-_LATEST:]:
            return ""
        (first, size), middle = others[0], sorted(usual)[len(usual) // 2]
        sizes = f"from step {first} on batches have {size} values and not {middle}"
        return f"{sizes}: going back does not change that"

    def state_dict(self) -> dict[str, Any]:
        """Return the sizes that it remembers, as plain values."""
        return {"sizes": [list(one) for one in self._sizes], "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Args:
            state: What `state_dict` returned.
        """
        self._sizes = deque(((int(step), int(size)) for step, size in state["sizes"]), maxlen=2 * _USUAL)
        self._since = state.get("since")
