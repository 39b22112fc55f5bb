"""Adam-mini on given gradients, against a loop over its blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import method
from foreshock.lab.guardbench.methods.adam_mini import shares
from foreshock.lab.tasks import OptimizerConfig
from foreshock.lab.tasks.causal import CausalSizes, CausalTransformer, LlamaTransformer

WIDTH, HEADS = 8, 2
SIZES = CausalSizes(vocabulary=5, length=6, layers=1, width=WIDTH, heads=HEADS)
CONFIG = OptimizerConfig("adamw", 0.05, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1)


def blocks_of(name, parameter):
    """Return a parameter's blocks by hand, each a list of flat indices."""
    index = torch.arange(parameter.numel()).reshape(parameter.shape)
    rows = list(index.flatten(1)) if parameter.ndim > 1 else []
    if name.endswith("bias"):
        return list(index.reshape(-1, 1))
    if name.endswith("query_key_value.weight"):
        head = WIDTH // HEADS
        heads = [torch.cat(rows[start : start + head]) for start in range(0, 2 * WIDTH, head)]
        return heads + rows[2 * WIDTH :]
    if "norm" in name or name == "position":
        return [index.flatten()]
    return rows


def drawn(model):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            name: torch.randn(one.shape, generator=generator, dtype=torch.float64)
            for name, one in model.named_parameters()
        }
        for _ in range(4)
    ]


@pytest.mark.parametrize("family", [CausalTransformer, LlamaTransformer])
def test_steps_of_a_transformer(family):
    torch.manual_seed(0)
    model = family(SIZES).double()
    expected = {name: one.detach().clone() for name, one in model.named_parameters()}
    first = {name: torch.zeros_like(one) for name, one in expected.items()}
    second = {name: torch.zeros_like(one) for name, one in expected.items()}
    optimizer = method("adam-mini").build(model, CONFIG)
    for t, gradients in enumerate(drawn(model), start=1):
        for name, parameter in model.named_parameters():
            gradient = gradients[name]
            parameter.grad = gradient.clone()
            first[name] = 0.8 * first[name] + 0.2 * gradient
            shared = torch.empty(gradient.numel(), dtype=torch.float64)
            for block in blocks_of(name, gradient):
                shared[block] = gradient.flatten()[block].square().mean()
            second[name] = 0.9 * second[name] + 0.1 * shared.reshape(gradient.shape)
            decay = 0.1 if gradient.ndim > 1 else 0.0
            direction = first[name] / (1 - 0.8**t) / ((second[name] / (1 - 0.9**t)).sqrt() + 1e-4)
            expected[name] = (1 - 0.05 * decay) * expected[name] - 0.05 * direction
        optimizer.step()
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter, expected[name], rtol=0, atol=1e-12), name


def test_each_tensor_of_another_network_is_a_block_but_biases_embeddings_and_output_layers():
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(4, 3),
            "lstm": nn.LSTM(3, 3),
            "kernel": nn.Conv2d(1, 2, 3),
            "output": nn.Linear(3, 2),
        }
    )
    names = {
        name: share.__name__
        for (name, _), share in zip(model.named_parameters(), shares(model).values(), strict=True)
    }
    assert names == {
        "embedding.weight": "by_row",
        "lstm.weight_ih_l0": "by_tensor",
        "lstm.weight_hh_l0": "by_tensor",
        "lstm.bias_ih_l0": "by_entry",
        "lstm.bias_hh_l0": "by_entry",
        "kernel.weight": "by_tensor",
        "kernel.bias": "by_entry",
        "output.weight": "by_row",
        "output.bias": "by_entry",
    }
