"""``ForeshockCallback`` for the ``Trainer`` of ``pytorch_lightning``, the older name of Lightning."""

from __future__ import annotations

from foreshock.integrations.lightning_hooks import LightningHooks

try:
    from pytorch_lightning import Callback
except ImportError as error:
    raise ImportError(
        "ForeshockCallback is a callback of pytorch_lightning, which is missing: "
        "pip install pytorch-lightning"
    ) from error


class ForeshockCallback(LightningHooks, Callback):  # type: ignore[misc, unused-ignore]
    """Watch the training of a ``pytorch_lightning.Trainer`` by one callback.

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
        ImportError: If pytorch-lightning is missing.

    Example:
        >>> import pytorch_lightning as L  # doctest: +SKIP
        >>> from foreshock.integrations.pytorch_lightning import ForeshockCallback  # doctest: +SKIP
        >>> trainer = L.Trainer(callbacks=[ForeshockCallback("runs/base")])  # doctest: +SKIP
    """

    package = "pytorch_lightning"
