r"""The Hessian of the mean loss over processes, each of which has a part of the batch.

.. math:: Hv = \sum_r p_r H_r v, \qquad p_r \text{ the share of the examples that process } r \text{ has.}
"""

from __future__ import annotations

from torch import Tensor

from foreshock.distributed import Joint
from foreshock.distributed.joint import POINT, PRODUCT
from foreshock.operators.base import Closing, LossOperator


class ReducedOperator(Closing):
    """The mean of one operator in each process; what a solver sees of it is the same in all.

    Args:
        part: That of this process, of the loss on its part of the batch.
        joint: The probe that all processes are in.

    Attributes:
        loss: Mean loss over all processes.
        gradient: Its gradient, shape (n,).

    Example:
        >>> import torch
        >>> from foreshock.distributed import ALONE
        >>> from foreshock.operators import HessianOperator
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> with ReducedOperator(HessianOperator(lambda: (x**3).sum(), [x]), ALONE) as hessian:
        ...     hessian(torch.tensor([1.0, 1.0]))
        tensor([ 6., 12.])
    """

    def __init__(self, part: LossOperator, joint: Joint) -> None:
        self._part, self._joint = part, joint
        gradient, (loss,) = joint.mean(part.gradient, joint.share * float(part.loss), topic=POINT)
        self.gradient = joint.own(gradient)
        self.loss = part.loss.new_tensor(loss)

    @property
    def backend(self) -> str:
        """How this process computes its products."""
        return self._part.backend

    @property
    def products(self) -> int:
        """Number of products so far."""
        return self._part.products

    @property
    def passes(self) -> float:
        """What this process spent so far, in F of its part of the batch."""
        return self._part.passes

    @property
    def gain(self) -> float | None:
        """‖Hv‖/‖v‖ of the last product of this process, where it takes differences."""
        return getattr(self._part, "gain", None)

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the mean of H·vector over all processes.

        Cost: one product, and one all-reduce; two where the vector is spread over processes.

        Args:
            vector: Shape (n,).
        """
        product, _ = self._joint.mean(self._part(self._joint.gather(vector)), topic=PRODUCT)
        return self._joint.own(product)

    def close(self) -> None:
        """Free graphs and copies."""
        self._part.close()
