r"""QK-clip: after a step shrink the queries and keys of heads whose largest attention logit is above τ.

.. math:: S_h = \max_{j ≤ i} q_i^\top k_j/\sqrt d, \qquad
    W_q^h, W_k^h ← \sqrt{\min(1, τ/S_h)}\;(W_q^h, W_k^h)

over the batch, in the forward pass of the step. Kimi Team 2025, *Kimi K2: Open Agentic Intelligence*,
arXiv 2507.20534, algorithm 1, with its τ = 100. There it is on Muon (MuonClip), here on the task's Adam or
AdamW. Biases of queries and keys, which theirs lack, are scaled too: else the logits were not. A model
without attention is left alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foreshock.lab.guardbench.methods.method import Method, Plain, Subject
from foreshock.lab.tasks.causal import Block, LlamaBlock, rotate

TAU = 100.0


class QKClip(Plain):
    """Watch the logits of each head in training, and shrink what is above τ.

    Args:
        subject: What is trained.
    """

    def __init__(self, subject: Subject) -> None:
        self._largest: dict[Block | LlamaBlock, Tensor] = {}
        modules = subject.model.modules()
        self._blocks = [module for module in modules if isinstance(module, Block | LlamaBlock)]
        self._hooks = [self._watch(block) for block in self._blocks]

    def _watch(self, block: Block | LlamaBlock) -> Any:
        def see(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            del inputs
            if layer.training:  # not the validation's
                self._largest[block] = largest_logits(block, output.detach())

        return block.query_key_value.register_forward_hook(see)

    def before_step(self, batch: Any, loss: float) -> None:
        """Do nothing: the forward pass has been seen."""

    @torch.no_grad()
    def after_step(self) -> bool:
        """Shrink, and return whether a head was."""
        shrunk = False
        for block, largest in self._largest.items():
            if bool((largest > TAU).any()):
                shrink(block, (TAU / largest).clamp(0, 1).sqrt().where(largest > TAU, 1.0))
                shrunk = True
        self._largest.clear()
        return shrunk

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()


def largest_logits(block: Block | LlamaBlock, output: Tensor) -> Tensor:
    """Return the largest logit of each head that enters its softmax, shape (heads,).

    Args:
        block: The block.
        output: What its `query_key_value` returned, shape (batch, length, 3·width).
    """
    query, key, _ = output.reshape(*output.shape[:2], 3, block.heads, -1).permute(2, 0, 3, 1, 4)
    if isinstance(block, LlamaBlock):
        query, key = rotate(query), rotate(key)
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
    largest: Tensor = logits.masked_fill(future, float("-inf")).amax(dim=(0, 2, 3))
    return largest


def shrink(block: Block | LlamaBlock, factors: Tensor) -> None:
    """Multiply queries and keys of each head.

    Args:
        block: The block.
        factors: One a head.
    """
    layer = block.query_key_value
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            heads = parameter.view(3, block.heads, -1)[:2]
            heads.mul_(factors[:, None])


QK_CLIP = Method(
    "qk-clip",
    "own",
    "Kimi Team 2025",
    "τ = 100, on Adam; without attention it is Adam",
    intervene=QKClip,
    code=(__name__,),
)
