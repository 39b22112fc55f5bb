r"""The loss that is differentiated: one closure, or micro-batches weighted by their counts.

The mean over all examples is :math:`L = \sum_i w_i L_i` with :math:`w_i = n_i / \sum_j n_j`, where n_i is the
number of examples (for language models: of predicted tokens) that the mean L_i is over. If the n_i differ,
the plain mean of the L_i is a different loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from foreshock.failures import ProbeRefusedError


@dataclass(frozen=True)
class LossTerm:
    """The mean loss of one micro-batch.

    Attributes:
        closure: Returns the mean loss of the micro-batch, a scalar tensor.
        weight: Number of examples that the mean is over, > 0; a common factor of all weights cancels.
    """

    closure: Callable[[], Tensor]
    weight: float = 1.0


Loss = Callable[[], Tensor] | Sequence[LossTerm]


def normalised_terms(loss: Loss) -> tuple[LossTerm, ...]:
    """Return the terms of a loss with weights that add up to one.

    Args:
        loss: A closure that returns the mean loss, or one term per micro-batch.

    Raises:
        ValueError: If there is no term, or a weight is not a positive number.

    Example:
        >>> terms = [LossTerm(lambda: torch.ones(())), LossTerm(lambda: torch.zeros(()), weight=3.0)]
        >>> [term.weight for term in normalised_terms(terms)]
        [0.25, 0.75]
    """
    terms = (LossTerm(loss),) if callable(loss) else tuple(loss)
    if not terms:
        raise ValueError("the loss has no terms; pass a closure, or a LossTerm for each micro-batch")
    for term in terms:
        if not 0 < term.weight < math.inf:
            raise ValueError(
                f"a LossTerm has weight {term.weight!r}; it must be the number of examples behind its "
                "mean, > 0: leave empty micro-batches out"
            )
    total = sum(term.weight for term in terms)
    return tuple(replace(term, weight=term.weight / total) for term in terms)


def evaluate(term: LossTerm) -> Tensor:
    """Return the loss of a term as a scalar tensor with a graph.

    Raises:
        ProbeRefusedError: If gradients are off after it.
        TypeError: If it is not a tensor.
        ValueError: If it is not a scalar, or has no graph, as inside of ``torch.inference_mode()``.
    """
    # autocast caches its casts of the weights. A cast from another evaluation may be of displaced weights, or
    # belong to a graph that is freed already.
    torch.clear_autocast_cache()
    recording = torch.is_grad_enabled()
    loss = term.closure()
    if recording and not torch.is_grad_enabled():
        raise ProbeRefusedError(
            "loss_fn turns gradients off and leaves them off, so that its loss can't be differentiated: let "
            "it compute the loss with gradients on, and what needs none inside of `with torch.no_grad():`, "
            "not after torch.set_grad_enabled(False)"
        )
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"loss_fn returned {type(loss).__name__}; it must return the mean loss as a scalar tensor "
            "(loss_fn(model, batch) -> loss)"
        )
    if loss.numel() != 1:
        raise ValueError(
            f"loss_fn returned a tensor of shape {tuple(loss.shape)}; it must return the mean loss as "
            "a scalar tensor: add .mean()"
        )
    if not loss.requires_grad and torch.is_inference_mode_enabled():
        raise ValueError(
            "torch.inference_mode() is on, in which nothing can be differentiated: measure outside of it, or "
            "use torch.no_grad() there, which a measurement overrides"
        )
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not require a gradient: loss_fn(model, batch) must evaluate the model that "
            "is trained, without detach(), item() or no_grad()"
        )
    return loss.reshape(())


def reaches(gradients: Sequence[Tensor | None]) -> bool:
    """Return whether any of the gradients of a loss is not None, so that it depends on a parameter."""
    return any(gradient is not None for gradient in gradients)


def require_dependence(*, reached: bool) -> None:
    """Refuse a loss that does not depend on the parameters.

    Args:
        reached: Whether any of its terms does; see `reaches`.

    Raises:
        ValueError: If it does not.
    """
    if not reached:
        raise ValueError(
            "the loss does not depend on any parameter of the optimizer: loss_fn(model, batch) must "
            "evaluate the very model that is trained, without detach() or no_grad()"
        )


@contextmanager
def twice_differentiable(*, eager: bool = False) -> Iterator[None]:
    """Choose kernels whose backward can be differentiated again.

    Args:
        eager: Run compiled modules uncompiled: the code of ``torch.compile`` has no double backward.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        # Flash and memory-efficient attention, and cuDNN's recurrent networks, have no double backward:
        # attention runs in its math kernel, recurrent networks in torch's own.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if eager:
            # Only if needed: set_stance imports the compiler, which takes seconds.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
