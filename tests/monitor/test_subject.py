"""What the log's header says of a model."""

from __future__ import annotations

import json

import torch
from torch import nn

from foreshock.explain.layers import layer_name
from foreshock.monitor.subject import Subject, layer_types


class Block(nn.Module):
    def __init__(self, attention=nn.Linear):
        super().__init__()
        self.attention, self.norm, self.act = attention(2, 2), nn.LayerNorm(2), nn.GELU()


class Deep(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(3))
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.mixed = nn.ModuleList(nn.Linear(2, 2) if i % 2 else nn.Conv1d(2, 2, 1) for i in range(depth))
        self.head = nn.Linear(2, 1)


def test_modules_with_parameters_are_named_with_their_classes():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), Block())
    assert layer_types(model) == {
        "0": "Conv2d",
        "2": "Block",
        "2.attention": "Linear",
        "2.norm": "LayerNorm",
    }


def test_the_header_of_a_deep_model_stays_small_and_names_its_layers():
    types = layer_types(Deep(400))
    assert len(json.dumps(types)) < 1000
    assert layer_name("blocks.399.attention", types) == "blocks.399.attention (Linear)"
    assert layer_name("blocks.7", types) == "blocks.7 (Block)"
    assert layer_name("head", types) == "head (Linear)"
    # Linear and Conv1d by turns: no type is better than a wrong one.
    assert layer_name("mixed.3", types) == "mixed.3"


def test_a_model_of_many_different_names_is_cut_off():
    model = nn.Module()
    for i in range(900):
        model.add_module(f"layer_{i}", nn.Linear(1, 1))
    assert len(layer_types(model)) == 200


def test_the_description_has_the_layers():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    described = Subject(model, [torch.optim.Adam(model.parameters())]).describe()
    assert described["layers"] == {"0": "Linear"}
    assert json.loads(json.dumps(described)) == described
