"""`AccelerateMonitor` for a training loop with the ``Accelerator`` of Hugging Face accelerate."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from foreshock.forecast import Forecast
from foreshock.guarding import Guard, Policy
from foreshock.integrations.accumulation import Accumulation, end_monitor, make_monitor
from foreshock.integrations.methods import WatchedMethods
from foreshock.monitor import Monitor
from foreshock.operators.base import Closing
from foreshock.preconditioner import unwrap

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError(
        "AccelerateMonitor watches a loop of accelerate, which is missing: "
        'pip install "foreshock[integrations]"'
    ) from error


class AccelerateMonitor(Closing):
    """Watch a loop with an ``Accelerator``: its accumulation, its gradient scaler and its clipping are known.

    Args:
        accelerator: The accelerator.
        model: The model, as ``prepare`` returned it.
        optimizer: Its optimizer, as ``prepare`` returned it.
        loss_fn: ``loss_fn(model, batch)`` → mean loss of one micro-batch, the one that training computes.
        run: Folder of the run log; None keeps none.
        guard: True lets a `Guard` act on what is measured; also a policy, or its name. The budget is .2 then,
            unless it is given.
        **options: Further arguments of `Monitor`, as ``budget``, ``horizon`` or ``on_alarm``.

    Attributes:
        monitor: The monitor, which has ``state_dict`` and ``load_state_dict``.

    Raises:
        ImportError: If accelerate is missing.
        TypeError: As `Monitor`.
        ValueError: As `Monitor`.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator  # doctest: +SKIP
        >>> from foreshock.integrations.accelerate import AccelerateMonitor  # doctest: +SKIP
        >>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)  # doctest: +SKIP
        >>> watch = AccelerateMonitor(accelerator, model, optimizer, loss_fn, "runs/1")  # doctest: +SKIP
        >>> watch.observe(batch, loss)  # doctest: +SKIP
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
        run: str | os.PathLike[str] | None = None,
        *,
        guard: Guard | Policy | str | bool | None = None,
        **options: Any,
    ) -> None:
        self._accelerator, self._optimizer = accelerator, optimizer
        loss = None if loss_fn is None else lambda model, batch: loss_fn(model, batch) * self._share
        self.monitor: Monitor = make_monitor(model, optimizer, loss, run=run, guard=guard, options=options)
        self._guard = guard
        self._step, self._of = Accumulation(), 1
        self._norm: Tensor | float | None = None
        self._max_norm, self._unscaled = math.inf, False
        self._methods = WatchedMethods()
        self._methods.replace(accelerator, "unscale_gradients", self._see_unscaling)
        self._methods.replace(accelerator, "clip_grad_norm_", self._see_norm)

    def observe(self, batch: Any, loss: Tensor) -> Forecast:
        """Take one micro-batch into account. Call it after clipping, before ``optimizer.step()``.

        Call it for each micro-batch, also for those after which the accelerator makes no step.

        Args:
            batch: What `loss_fn` gets.
            loss: Its loss, as it was given to ``accelerator.backward``.

        Returns:
            The forecast; inside of an accumulation the one of the last step.
        """
        accelerator = self._accelerator
        self._of = accelerator.gradient_accumulation_steps
        self._step.add(batch, loss, share=1 / self._of)
        if not accelerator.sync_gradients:
            return self.monitor.forecast
        guard = self.monitor.guard
        if guard is not None and self._norm is not None and self._max_norm < math.inf:
            guard.clipped(self._norm, max_norm=self._max_norm)
        try:
            return self.monitor.observe(
                self._step.batch,
                self._step.loss,
                gradient_scale=self._scale(),
                gradient_norm=self._norm,
                max_norm=self._max_norm,
            )
        finally:
            self._step, self._norm, self._max_norm, self._unscaled = Accumulation(), None, math.inf, False

    def close(self) -> None:
        """Close the run log, and leave accelerator and optimizer as they were."""
        self._methods.restore()
        end_monitor(self.monitor, guard=self._guard)

    @property
    def _share(self) -> float:
        # accelerate divides by the length of a full accumulation, also in a shorter one at an epoch's end.
        return len(self._step) / self._of

    def _scale(self) -> float:
        scaler = self._accelerator.scaler
        return 1.0 if scaler is None or self._unscaled else float(scaler.get_scale())

    def _see_unscaling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def unscale_gradients(optimizer: Any = None) -> Any:
            chosen = optimizer if isinstance(optimizer, (tuple, list)) else [optimizer]
            if optimizer is None or unwrap(self._optimizer) in [unwrap(one) for one in chosen]:
                self._unscaled = True
            return original(optimizer)

        return unscale_gradients

    def _see_norm(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2, **kwargs: Any) -> Any:
            norm = original(parameters, max_norm, norm_type, **kwargs)
            if norm_type == 2:
                self._norm, self._max_norm = norm, float(max_norm)
            return norm

        return clip_grad_norm_
