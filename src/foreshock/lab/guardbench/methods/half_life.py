r"""A β₂ whose half-life in examples does not depend on the batch.

.. math:: β_2^* = β_2^{B^*/B}

for batches of B* examples where β₂ belongs to batches of B. Marek et al. 2025, *Small Batch Size Training
for Language Models: When Vanilla SGD Works, and Why Gradient Accumulation Is Wasteful*, arXiv 2507.07101.
In their trainings it is ten million tokens, more than these tasks ever see. To which batch a task's β₂
belongs is not said there; here that is the whole training set. So full batches stay as they are, and so do
endless data, which have no such batch.
"""

from __future__ import annotations

from typing import Any

from foreshock.batches import count_examples
from foreshock.lab.guardbench.methods.method import Method, Plain, Subject


class HalfLife(Plain):
    """Set β₂ by the size of the first batch; all of a training have one size.

    Args:
        subject: What is trained.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._set = subject.full_batch or subject.examples is None

    def before_step(self, batch: Any, loss: float) -> None:
        """Set β₂ before the first step."""
        del loss
        if self._set or self._subject.examples is None:
            return
        share = count_examples(batch) / self._subject.examples
        for group in self._subject.optimizer.param_groups:
            beta1, beta2 = group["betas"]
            group["betas"] = (beta1, beta2**share)
        self._set = True

    def after_step(self) -> bool:
        """Return that no step is changed but by β₂."""
        return False


HALF_LIFE = Method(
    "beta2-half-life",
    "own",
    "Marek et al. 2025",
    "β₂ to the power of a batch's share of the training set, "
    "so that its half-life in examples is the full batch's",
    intervene=HalfLife,
    code=(__name__,),
)
