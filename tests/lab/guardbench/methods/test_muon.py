"""Muon on hidden matrices, AdamW on the others, each on a single step; and what is hidden."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import method
from foreshock.lab.guardbench.methods.muon import hidden_matrices
from foreshock.lab.tasks import OptimizerConfig, build_scheduler

CONFIG = OptimizerConfig("adamw", 0.01, weight_decay=0.5, schedule="warmup", warmup_steps=4)


def shapes(model):
    return [tuple(weight.shape) for weight in hidden_matrices(model)]


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(7, 4))
        self.embedding = nn.Embedding(9, 4)
        self.lstm = nn.LSTM(4, 5)
        self.norm = nn.LayerNorm(5)
        self.output = nn.Linear(5, 9)


def test_embeddings_positions_and_the_last_layer_are_not_hidden():
    assert shapes(Reader()) == [(20, 4), (20, 5)]


def test_kernels_and_the_first_layer_are_not_hidden():
    kernels = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(8, 4), nn.Linear(4, 3))
    assert shapes(kernels) == [(4, 8)]
    assert shapes(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))) == []


def test_a_shared_weight_counts_once():
    model = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    model[2].weight = model[1].weight
    assert shapes(model) == [(3, 3)]


def test_a_step_turns_hidden_matrices_by_an_orthogonal_one_and_is_adamws_elsewhere():
    """The singular values of the step are about .2·√max(rows, columns)·η, whatever those of the gradient."""
    pytest.importorskip("torch", minversion="2.9")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 4), nn.Linear(4, 1))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = method("muon").build(model, CONFIG)
    scheduler = build_scheduler(optimizer, CONFIG, 10)
    for parameter in model.parameters():
        parameter.grad = 1e3 * torch.randn_like(parameter)
    optimizer.step()
    rate = 0.01 / 4  # the warm-up's first, which the scheduler must have set in both parts
    for name, parameter in model.named_parameters():
        decay = 0.5 if parameter.ndim == 2 else 0.0
        move = parameter.detach() - (1 - rate * decay) * before[name]
        if name == "1.weight":
            values = torch.linalg.svdvals(move) / (rate * 0.2 * 8**0.5)
            assert 0.6 < values.min() <= values.max() < 1.3  # Newton and Schulz end in about [.7, 1.2]
            assert (move * parameter.grad).sum() < 0
        else:
            assert torch.allclose(move, -rate * parameter.grad.sign(), atol=1e-6)
    assert set(optimizer.state) == set(model.parameters())
    scheduler.step()
    assert {group["lr"] for part in optimizer.parts for group in part.param_groups} == {2 * rate}


def test_without_hidden_matrices_it_is_adamw():
    models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        method(name).build(model, CONFIG) for name, model in zip(("muon", "adam"), models, strict=True)
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        model.weight.grad, model.bias.grad = torch.tensor([[1.0, -3.0]]), torch.tensor([2.0])
        optimizer.step()
    assert torch.equal(models[0].weight, models[1].weight)


def test_an_old_torch_is_told_what_it_lacks(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ImportError, match=r"has no Muon.*torch>=2\.9"):
        method("muon").build(nn.Linear(1, 1), CONFIG)
