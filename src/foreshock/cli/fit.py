"""Does v of a checkpoint fit the gradients that the model has on some batches?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from foreshock.cli.checkpoints import load_batches, load_checkpoint, make_trainable, saying_where
from foreshock.cli.health import Remark
from foreshock.monitor.tensors import TensorReader
from foreshock.words import number

_BURST = 5.0  # RMS of g/√v̂: a settled v has seen such gradients, and keeps it near one
_BATCHES = 8
_SHOWN = 3


def compare_with_gradients(path: Path, model: str, data: str) -> Iterator[Remark]:
    """Yield what a comparison of v with gradients says of a checkpoint.

    Args:
        path: The checkpoint.
        model: ``module:factory``, which must return an optimizer too.
        data: ``module:batches``; eight of them at most are used.

    Raises:
        ValueError: If the factory returns no optimizer, or the checkpoint does not fit.
    """
    trainable = make_trainable(model)
    if trainable.optimizer is None:
        raise ValueError(
            f"{model} returns no optimizer; return (model, loss_fn, optimizer) to compare v with gradients"
        )
    load_checkpoint(path, trainable)
    batches = load_batches(data, limit=_BATCHES)
    trainable.optimizer.zero_grad()
    loss_fn = saying_where(trainable.loss_fn)
    for batch in batches:
        (loss_fn(trainable.model, batch) / len(batches)).backward()  # type: ignore[no-untyped-call]
    table = TensorReader(trainable.model, [trainable.optimizer]).read(0, "asked")
    high = [row for row in table.by("burst") if row.burst > _BURST]
    if high:
        shown = ", ".join(f"{row.name} {number(row.burst)}" for row in high[:_SHOWN])
        yield Remark(
            "fault",
            f"gradients are far above √v̂ in {len(high)} of {len(table.rows)} tensors (RMS g/√v̂: {shown}): v "
            "is cold, or not of this model and data",
        )
        return
    worst = table.by("burst")[0]
    yield Remark("fine", f"v fits the gradients: RMS of g/√v̂ is at most {number(worst.burst)} ({worst.name})")
