"""``ForeshockCallback`` for the ``Trainer`` of ``lightning`` (``lightning.pytorch``)."""

from __future__ import annotations

from foreshock.integrations.lightning_hooks import LightningHooks

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise ImportError(
        "ForeshockCallback is a callback of lightning, which is missing: "
        'pip install "foreshock[integrations]"'
    ) from error


class ForeshockCallback(LightningHooks, Callback):  # type: ignore[misc, unused-ignore]
    """Watch the training of a ``lightning.Trainer`` by one callback.

    What `Monitor` measures is the module's own ``training_step`` on the batches of the step, in the precision
    of the Trainer, with logging switched off. With ``accumulate_grad_batches`` all batches of a step count.
    The gradients are observed after Lightning has clipped them. Checkpoints hold the state of the monitor,
    and a training that is resumed goes on in the same log.

    Without a guard, training is bitwise what it would be without the callback. With manual optimization, or a
    ``training_step`` that takes ``dataloader_iter``, pass `loss_fn`: without it the free signals are watched.

    Args:
        run: Folder of the run log; None keeps none.
        loss_fn: ``loss_fn(module, batch)`` → mean loss; None for ``training_step``.
        optimizer: Index of the optimizer to watch, where ``configure_optimizers`` returns several.
        guard: True lets a `Guard` act on what is measured; also a policy, or its name. The budget is .2 then,
            unless it is given.
        **options: Further arguments of `Monitor`, as ``budget``, ``horizon`` or ``on_alarm``.

    Attributes:
        monitor: The monitor of the present or last training; None before the first.

    Raises:
        ImportError: If lightning is missing.

    Example:
        >>> import lightning as L  # doctest: +SKIP
        >>> from foreshock.integrations.lightning import ForeshockCallback  # doctest: +SKIP
        >>> trainer = L.Trainer(callbacks=[ForeshockCallback("runs/base")])  # doctest: +SKIP
    """

    package = "lightning.pytorch"
