r"""SPECTRA: clip the singular values of the update of each matrix, softly.

With the update U of a matrix, learning rate and decoupled decay λ left out,

.. math:: θ ← (1 - ηλ)\,θ - ηα\,\left(1 + UU^\top/c^2\right)^{-1/2} U, \qquad
    α = \sqrt{\max(1, \text{rows}/\text{columns})},

so that a singular value σ becomes :math:`σ/\sqrt{1 + σ^2/c^2}`, which is below c. Jiang, Semenov and Stich
2026, *Enhancing LLM Training via Spectral Clipping*, arXiv 2603.14315: clipping of AdamW's updates,
without the optional clipping of gradients. As in its authors' code, in the repository
mlolab/llm-spectral-clipping: this α; c = 10; during warm-up c·η is as at the highest rate; the root is
made by ten iterations of Newton and Schulz; and if the norm of a vector is above c, it becomes
:math:`\|u\|/\sqrt{1 + \|u\|^2/c^2}`. Unlike there, all is in the precision of the weights, and kernels of
convolutions, which the paper lacks, are matrices with a row a channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foreshock.lab.guardbench.methods.method import Method, Plain, Subject

LIMIT = 10.0  # c
ITERATIONS = 10


class SpectralClipping(Plain):
    """Clip the updates.

    Args:
        subject: What is trained.
    """

    def __init__(self, subject: Subject) -> None:
        self._groups = subject.optimizer.param_groups
        # A scheduler writes the highest rate down before it lowers the first ones.
        self._highest = max(float(group.get("initial_lr", group["lr"])) for group in self._groups)
        self._warm = False
        self._before: dict[Tensor, Tensor] = {}

    def before_step(self, batch: Any, loss: float) -> None:
        """Keep the weights."""
        del batch, loss
        self._before = {
            parameter: parameter.detach().clone()
            for group in self._groups
            for parameter in group["params"]
            if parameter.grad is not None
        }

    @torch.no_grad()
    def after_step(self) -> bool:
        """Take the step anew with clipped updates, and return that it was changed: all are, softly."""
        for group in self._groups:
            rate = float(group["lr"])
            self._warm |= rate >= self._highest
            if not rate > 0:
                continue
            limit = LIMIT if self._warm else LIMIT * self._highest / rate
            decay = group["weight_decay"] if group.get("decoupled_weight_decay", False) else 0.0
            for parameter in group["params"]:
                if parameter in self._before:
                    self._retake(parameter, limit, rate, decay)
        return True

    def _retake(self, parameter: Tensor, limit: float, rate: float, decay: float) -> None:
        before = self._before[parameter]
        kept = (1 - rate * decay) * before
        parameter.copy_(kept - rate * clipped((kept - parameter) / rate, limit))

    def buffers(self) -> list[Tensor]:
        """Return the weights before the step: an optimizer of its own would not need them."""
        return list(self._before.values())


def clipped(update: Tensor, limit: float) -> Tensor:
    """Return α times an update whose singular values are clipped softly; of a vector its norm is.

    Args:
        update: The update of one parameter; from two dimensions on a matrix with one row a channel.
        limit: What no singular value reaches, c.

    Example:
        >>> values = clipped(torch.diag(torch.tensor([0.03, 4.0])), 3.0).diagonal()
        >>> [round(float(value), 3) for value in values]  # 4/√(1 + 16/9) = 2.4
        [0.03, 2.4]
    """
    if update.ndim < 2:
        norm = float(update.norm())
        return update if norm <= limit else update / (1 + (norm / limit) ** 2) ** 0.5
    matrix = update.flatten(1)
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    square = wide @ wide.T / limit**2
    found = inverse_root(torch.eye(len(square), dtype=square.dtype, device=square.device) + square) @ wide
    factor = max(1.0, len(matrix) / matrix.shape[1]) ** 0.5
    result: Tensor = factor * (found if wide is matrix else found.T)
    return result.reshape(update.shape)


def inverse_root(matrix: Tensor) -> Tensor:
    """Return A^(-1/2) by the coupled iteration of Newton and Schulz.

    Args:
        matrix: A, symmetric, with eigenvalues of at least one.
    """
    # Two bounds of the largest eigenvalue: that of Gershgorin and the Frobenius norm.
    largest = torch.minimum(matrix.abs().sum(dim=1).max(), matrix.norm())
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    root, inverse = matrix / largest, identity
    for _ in range(ITERATIONS):
        factor = (3 * identity - inverse @ root) / 2
        root, inverse = root @ factor, factor @ inverse
    return inverse / largest.sqrt()


SPECTRA = Method(
    "spectra",
    "own",
    "Jiang et al. 2026",
    "spectral clipping of the updates at c = 10, all parameters, as in its authors' code",
    intervene=SpectralClipping,
    code=(__name__,),
)
