"""``ForeshockCallback`` for the ``Trainer`` of transformers (Hugging Face), version 5 and later."""

from __future__ import annotations

import copy
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from foreshock.guarding import Guard, Policy
from foreshock.integrations.accumulation import Accumulation, end_monitor, make_monitor
from foreshock.integrations.methods import WatchedMethods
from foreshock.monitor import Monitor

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "ForeshockCallback is a callback of transformers, which is missing: "
        'pip install "foreshock[integrations]"'
    ) from error

_LOGGER = logging.getLogger("foreshock")
_UNSEEN = (
    "the Trainer's training_step does not call compute_loss, so that batch and loss are unknown and nothing "
    "is watched: compute the loss in compute_loss, or use foreshock.Monitor in a training_step of your own"
)


class ForeshockCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Watch the training of a ``transformers.Trainer``: one callback, and no subclass.

    What `Monitor` measures is the Trainer's own ``compute_loss`` on the batches of the step: with label
    smoothing, a ``compute_loss_func``, ``num_items_in_batch``, gradient accumulation and autocast as in
    training. Its gradient norm is the one that the Trainer clips by. With ``save_strategy`` the state of the
    monitor is saved in each checkpoint, and a training that is resumed goes on in the same log.

    Without a guard, training is bitwise what it would be without the callback.

    Args:
        run: Folder of the run log; None keeps none.
        guard: True lets a `Guard` act on what is measured; also a policy, or its name. The budget is .2 then,
            unless it is given.
        **options: Further arguments of `Monitor`, as ``budget``, ``horizon`` or ``on_alarm``.

    Attributes:
        monitor: The monitor of the present or last training; None before the first.

    Raises:
        ImportError: If transformers is missing.

    Example:
        >>> from transformers import Trainer  # doctest: +SKIP
        >>> from foreshock.integrations.transformers import ForeshockCallback  # doctest: +SKIP
        >>> trainer = Trainer(model, args, callbacks=[ForeshockCallback("runs/base")])  # doctest: +SKIP
    """

    def __init__(
        self,
        run: str | os.PathLike[str] | None = None,
        *,
        guard: Guard | Policy | str | bool | None = None,
        **options: Any,
    ) -> None:
        self.monitor: Monitor | None = None
        self._run, self._guard, self._options = run, guard, options
        self._methods = WatchedMethods()
        self._trainer: Any = None
        self._end: Callable[[], None] = _nothing
        self._step = _Step()
        self._norm: Tensor | float | None = None
        self._max_norm = math.inf
        self._told = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the monitor, once the optimizer exists.

        Raises:
            RuntimeError: If the callback is not called by a Trainer.
            TypeError: As `Monitor`.
            ValueError: As `Monitor`.
        """
        self._finish()  # of a training that ended in an error
        self._trainer, resumed = _calling_trainer()
        options = {"learning_rate_at": _schedule(self._trainer), **self._options}
        model = self._trainer.model_wrapped
        monitor = make_monitor(
            model, self._trainer.optimizer, self._loss, run=self._run, guard=self._guard, options=options
        )
        self.monitor = monitor
        self._end = lambda: end_monitor(monitor, guard=self._guard)
        self._methods.replace(self._trainer, "compute_loss", self._see_loss)
        self._methods.replace(self._trainer.accelerator, "clip_grad_norm_", self._see_norm)
        if state.global_step:
            self._resume(resumed or args.output_dir, state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a step of the optimizer, which may have several micro-batches."""
        self._step, self._norm, self._max_norm = _Step(open=True), None, math.inf

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Observe: after clipping, before the step."""
        step, monitor = self._step, self.monitor
        step.open = False
        if monitor is None or self._trainer is None:
            return
        if step.losses:
            whole, loss = step.settle(self._trainer)
            if monitor.guard is not None and self._norm is not None and self._max_norm < math.inf:
                monitor.guard.clipped(self._norm, max_norm=self._max_norm)
            monitor.observe(
                whole,
                loss,
                gradient_norm=self._norm,
                max_norm=self._max_norm,
                step=state.global_step,
            )
        elif not self._told:
            self._told = True
            _LOGGER.warning(_UNSEEN)
        self._step = _Step()  # batches are not kept from step to step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the state of the monitor in the checkpoint that was just written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.monitor is None or args.save_only_model or not folder.is_dir():
            return
        try:
            torch.save(self.monitor.state_dict(), folder / _file(args.process_index))
        except OSError as error:
            _LOGGER.warning("the state of the monitor was not saved in %s: %s", folder, error)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the run log, and leave the Trainer as it was."""
        self._finish()

    def _finish(self) -> None:
        self._methods.restore()
        end, self._end = self._end, _nothing
        self._trainer, self._step = None, _Step()
        end()

    def _see_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def compute_loss(model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            # compute_loss takes the labels out of its inputs.
            own = copy.copy(inputs)
            result = original(model, inputs, *args, **kwargs)
            if self._step.open and torch.is_grad_enabled():
                self._step.see(own, result[0] if isinstance(result, tuple) else result, args, kwargs)
            return result

        return compute_loss

    def _see_norm(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2, **kwargs: Any) -> Any:
            norm = original(parameters, max_norm, norm_type, **kwargs)
            if norm_type == 2:
                self._norm, self._max_norm = norm, float(max_norm)
            return norm

        return clip_grad_norm_

    def _loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a batch, or of a part of one, as the Trainer computes it."""
        step, trainer = self._step, _stand_in(self._trainer)
        with trainer.compute_loss_context_manager():
            result = trainer.compute_loss(model, copy.copy(batch), *step.args, **step.keywords(batch))
        loss: Tensor = result[0] if isinstance(result, tuple) else result
        return loss.mean() * step.factor  # one loss for each device where the Trainer uses DataParallel

    def _resume(self, folder: str | os.PathLike[str], step: int) -> None:
        name = _file(self._trainer.args.process_index)
        places = (Path(folder), Path(folder) / f"checkpoint-{step}")
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None or self.monitor is None:
            return
        try:
            self.monitor.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # noqa: BLE001 - a damaged file must not end the training
            _LOGGER.warning("the monitor starts anew, since %s can't be used: %s", path, error)


class _Step:
    """The micro-batches of one step, their losses, and how the Trainer weights them.

    Args:
        open: Whether losses are being computed for the step.
    """

    def __init__(self, *, open: bool = False) -> None:  # noqa: A002
        self.open = open
        self.losses: list[Tensor] = []
        self.batches: list[Any] = []
        self.args: tuple[Any, ...] = ()
        self.factor = 1.0
        self._kwargs: dict[str, Any] = {}
        self._shifts = False

    def see(self, batch: Any, loss: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take one micro-batch with its loss, and how ``compute_loss`` was called."""
        self.batches.append(batch)
        self.losses.append(loss.detach().mean())
        self.args, self._kwargs = args, kwargs

    def settle(self, trainer: Any) -> tuple[Any, Tensor]:
        """Return batch and loss of the step, whose parts add up as in ``Trainer.training_step``."""
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            counted = trainer.model_accepts_loss_kwargs and self._kwargs.get("num_items_in_batch") is not None
            scaled = counted or trainer.compute_loss_func is not None
        self._shifts = bool(getattr(trainer, "_loss_shifts_labels", False))
        number = len(self.batches)
        # Losses over the number of items of all micro-batches add up: their mean is k times each.
        self.factor = float(number) if scaled else 1.0
        gathered = Accumulation()
        for batch, loss in zip(self.batches, self.losses, strict=True):
            gathered.add(batch, loss, share=self.factor / number)
        return gathered.batch, gathered.loss

    def keywords(self, batch: Any) -> dict[str, Any]:
        """Return the keywords for a batch: of a part of one batch, with its part of the number of items."""
        items = self._kwargs.get("num_items_in_batch")
        if items is None or len(self.batches) > 1:
            return self._kwargs
        share = _predicted(batch, shifted=self._shifts) / _predicted(self.batches[0], shifted=self._shifts)
        return {**self._kwargs, "num_items_in_batch": items * share}


def _predicted(batch: Any, *, shifted: bool) -> Tensor | float:
    """Return the number of labels that count, as the Trainer counts them."""
    labels = batch.get("shift_labels", batch.get("labels"))
    if not isinstance(labels, Tensor):
        return 1.0
    if shifted and "shift_labels" not in batch:
        labels = labels[..., 1:]
    return (labels != -100).sum().clamp(min=1)


def _calling_trainer() -> tuple[Any, str | None]:
    """Return the Trainer that called, and the checkpoint that it resumes.

    A callback is given the model and the optimizer, and not the Trainer, which alone knows the loss: it is
    looked for among the callers.

    Raises:
        RuntimeError: If there is none.
    """
    from transformers import Trainer

    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer):
            resumed = frame.f_locals.get("resume_from_checkpoint")
            return owner, resumed if isinstance(resumed, str) else None
        frame = frame.f_back  # type: ignore[assignment]
    raise RuntimeError(
        "ForeshockCallback was not called by a transformers.Trainer: pass it to Trainer(callbacks=[…]), or "
        "use foreshock.Monitor in a loop of your own"
    )


def _stand_in(trainer: Any) -> Any:
    """Return a copy of a Trainer, whose counters and lists a probe may change.

    Subclasses gather metrics in ``compute_loss``. The copy shares the model, the accelerator and all other
    objects with the Trainer, and none of its containers.
    """
    double = copy.copy(trainer)
    vars(double).pop("compute_loss", None)
    for name, value in list(vars(double).items()):
        if isinstance(value, (dict, list, set)):
            vars(double)[name] = _own_containers(value, depth=4)
    return double


def _own_containers(value: Any, *, depth: int) -> Any:
    if not depth or not isinstance(value, (dict, list, set)):
        return value
    own: Any = copy.copy(value)
    if isinstance(value, dict):
        own.update({key: _own_containers(item, depth=depth - 1) for key, item in value.items()})
    elif isinstance(value, list):
        own[:] = [_own_containers(item, depth=depth - 1) for item in value]
    return own


def _schedule(trainer: Any) -> Callable[[int], float] | None:
    """Return the learning rate at a step, in any unit, where the schedule is one of transformers' own."""
    scheduler = trainer.lr_scheduler
    if not isinstance(scheduler, LambdaLR):
        return None
    rate_of = scheduler.lr_lambdas[0]
    if not getattr(getattr(rate_of, "func", rate_of), "__module__", "").startswith("transformers."):
        return None  # what a user's own function does when it is called is unknown
    # A step that fp16 skips is one of the Trainer, and none of the schedule.
    return lambda step: float(rate_of(max(scheduler.last_epoch + step - trainer.state.global_step, 0)))


def _file(rank: int) -> str:
    return f"foreshock_{rank}.pt"


def _nothing() -> None:
    pass
