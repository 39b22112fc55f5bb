"""What a Lightning callback does, whichever of the two packages it is for.

Lightning calls ``on_before_optimizer_step`` before it clips. The gradients that the optimizer gets are there
once ``configure_gradient_clipping`` has returned, which with automatic optimization it calls at each step.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.guarding import Guard, Policy
from foreshock.integrations.accumulation import Accumulation, end_monitor, make_monitor
from foreshock.integrations.methods import WatchedMethods
from foreshock.monitor import Monitor

_LOGGER = logging.getLogger("foreshock")
_NO_LOSS = (
    "%s, so that its loss can't be computed again: only the free signals are watched, and no curvature. Pass "
    "ForeshockCallback(loss_fn=…), a function loss_fn(module, batch) -> mean loss, to measure it"
)
_LOGGING = ("log", "log_dict", "log_grad_norm")


class LightningHooks:
    """The hooks of `ForeshockCallback`; its arguments are explained there."""

    package = ""  # of the Lightning that is attached to

    def __init__(
        self,
        run: str | os.PathLike[str] | None = None,
        *,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        optimizer: int | None = None,
        guard: Guard | Policy | str | bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._run, self._guard, self._options = run, guard, options
        self._loss_fn, self._chosen = loss_fn, optimizer
        self._methods = WatchedMethods()
        self._end: Callable[[], None] = _nothing
        self._state: dict[str, Any] | None = None
        self._optimizer: Any = None
        self._trainer: Any = None
        self._batch: Any = None
        self._index = 0
        self._step = Accumulation()
        self._accumulated, self._used = 1, False
        self._takes_index = True
        self._norm: Tensor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the monitor, once the optimizer has its state."""
        self._finish()
        self._optimizer = self._watched_optimizer(trainer.optimizers)
        self._trainer = trainer
        monitor = make_monitor(
            pl_module,
            self._optimizer,
            self._choose_loss(pl_module),
            run=self._run,
            guard=self._guard,
            options=self._options,
        )
        self.monitor = monitor
        self._end = lambda: end_monitor(monitor, guard=self._guard)
        if pl_module.automatic_optimization:
            self._methods.replace(pl_module, "configure_gradient_clipping", self._after_clipping)
        state, self._state = self._state, None
        if state:
            try:
                monitor.load_state_dict(state)
            except Exception as error:  # noqa: BLE001 - a damaged state must not end the training
                _LOGGER.warning("the monitor starts anew, since its state can't be used: %s", error)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the batch."""
        # Of its own container: a training step may take things out of it.
        self._batch = copy.copy(batch) if isinstance(batch, (dict, list)) else batch
        self._index = batch_idx

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss, which Lightning has divided by the number of batches of an accumulation."""
        self._accumulated = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        value = loss.detach()
        if scaler is not None:
            value = value / scaler.scale(torch.ones_like(value))  # get_scale() would wait for the device
        if self._used:
            self._step, self._used = Accumulation(), False
        self._step.add(self._batch, value)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Note the norm that is about to be clipped; observe where Lightning doesn't clip."""
        if self.monitor is None:
            return
        if optimizer is not self._optimizer:
            self._used = True  # what was gathered was the loss of another optimizer, unless it is shared
            return
        if not pl_module.automatic_optimization:
            self._observe(pl_module, optimizer)
        elif self.monitor.guard is not None and _clips_by_norm(trainer, pl_module):
            gradients = [one.grad for group in optimizer.param_groups for one in group["params"]]
            self._norm = torch.nn.utils.get_total_norm([one for one in gradients if one is not None])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the run log, and leave module and optimizer as they were."""
        self._finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the run log of a training that ends in an error."""
        self._finish()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the monitor, which Lightning saves in its checkpoints."""
        return {} if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`, once the training starts."""
        self._state = dict(state_dict)

    def _after_clipping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def configure_gradient_clipping(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(optimizer, *args, **kwargs)
            if self.monitor is not None and _bare(optimizer) is self._optimizer:
                self._observe(original.__self__, self._optimizer)  # type: ignore[attr-defined]
            return result

        return configure_gradient_clipping

    def _observe(self, module: Any, optimizer: Any) -> None:
        step, monitor = self._step, self.monitor
        if not len(step) or monitor is None:
            return
        norm, self._norm = self._norm, None
        if monitor.guard is not None and norm is not None:
            monitor.guard.clipped(norm, max_norm=self._trainer.gradient_clip_val)
        # With manual optimization Lightning counts the steps of all optimizers together.
        number = int(self._trainer.global_step) if module.automatic_optimization else None
        monitor.observe(step.batch, step.loss, gradient_scale=self._scale(optimizer), step=number)
        self._step = Accumulation()

    def _scale(self, optimizer: Any) -> float:
        """Return what ``.grad`` is still multiplied by: fused optimizers undo the scale themselves."""
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        return float(scaler.get_scale()) if scaler is not None and fused else 1.0

    def _watched_optimizer(self, optimizers: list[Any]) -> Any:
        if self._chosen is not None:
            return optimizers[self._chosen]
        if len(optimizers) != 1:
            raise ValueError(
                f"the module has {len(optimizers)} optimizers, each with a loss of its own, and one callback "
                "watches one of them: pass ForeshockCallback(optimizer=0) for the first from "
                "configure_optimizers"
            )
        return optimizers[0]

    def _choose_loss(self, module: Any) -> Callable[[nn.Module, Any], Tensor] | None:
        given = self._loss_fn
        if given is not None:
            return lambda model, batch: self._in_precision(lambda: given(model, batch))
        names = list(inspect.signature(module.training_step).parameters)
        if not module.automatic_optimization:
            _LOGGER.warning(_NO_LOSS, "the module steps its optimizer itself (manual optimization)")
            return None
        if "dataloader_iter" in names:
            _LOGGER.warning(_NO_LOSS, "training_step takes dataloader_iter and fetches its batches itself")
            return None
        self._takes_index = len(names) > 1
        return self._training_loss

    def _in_precision(self, loss: Callable[[], Tensor]) -> Tensor:
        """Return a loss under autocast as in training, with the weight that Lightning gives it."""
        with self._trainer.precision_plugin.train_step_context():
            # Lightning divides by the length of a full accumulation, also in a shorter one at an epoch's end.
            return loss() * (len(self._step) / self._accumulated if self._accumulated > 1 else 1.0)

    def _training_loss(self, module: Any, batch: Any) -> Tensor:
        """Return the loss of ``training_step`` once more, and let it log nothing."""
        own = (batch, self._index) if self._takes_index else (batch,)

        def loss() -> Tensor:
            result = module.training_step(*own)
            found: Tensor = result["loss"] if isinstance(result, Mapping) else result
            return found

        with self._silent(module):
            return self._in_precision(loss)

    @contextmanager
    def _silent(self, module: nn.Module) -> Iterator[None]:
        muted = WatchedMethods()
        for name in _LOGGING:
            muted.replace(module, name, lambda _: lambda *_args, **_kwargs: None)
        loggers = list(self._trainer.loggers)
        if loggers:
            dummy = import_module(f"{self.package}.loggers.logger").DummyLogger
            self._trainer.loggers = [dummy() for _ in loggers]
        try:
            yield
        finally:
            muted.restore()
            if loggers:
                self._trainer.loggers = loggers

    def _finish(self) -> None:
        self._methods.restore()
        end, self._end = self._end, _nothing
        self._step, self._batch = Accumulation(), None
        end()


def _clips_by_norm(trainer: Any, module: Any) -> bool:
    own = "lightning" in type(module).configure_gradient_clipping.__module__.split(".")[0]
    algorithm = trainer.gradient_clip_algorithm
    by_value = getattr(algorithm, "value", algorithm) == "value"
    limit = trainer.gradient_clip_val
    return limit is not None and 0 < limit < math.inf and own and not by_value


def _bare(optimizer: Any) -> Any:
    return getattr(optimizer, "_optimizer", optimizer)


def _nothing() -> None:
    pass
