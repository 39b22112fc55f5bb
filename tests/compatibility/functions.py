"""Custom autograd functions whose backward can't be differentiated, each for tanh or a product with 2."""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable


class OpaqueTanh(torch.autograd.Function):
    """A right gradient, and a backward that hides the derivative of tanh from autograd."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope * (1 - x.detach().tanh() ** 2)


class HonestTanh(torch.autograd.Function):
    """The same with a backward that autograd can see through."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope * (1 - x.tanh() ** 2)


class OnceTanh(torch.autograd.Function):
    """The same, declared to be differentiable once: autograd raises, or takes its gradient for constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope * (1 - x.tanh() ** 2)
