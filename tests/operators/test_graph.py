"""What the autograd graph shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from compatibility.functions import OpaqueTanh
from foreshock.operators.graph import has_compiled_module, read_graph


def test_functions_that_may_hide_something_are_found():
    x = torch.ones(3, requires_grad=True)
    assert read_graph(OpaqueTanh.apply(x).sum()).suspects == ("OpaqueTanh",)
    assert read_graph(x.tanh().sum()).suspects == ()
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    assert read_graph(layer(x).sum()).suspects == ("WeightNormInterface",)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functional.relu, "Relu"),
        (functional.leaky_relu, "LeakyRelu"),
        (functional.relu6, "Hardtanh"),
        (lambda x: functional.prelu(x, torch.ones(1)), "PreluKernel"),
        (lambda x: functional.max_pool2d(x, 2), "MaxPool"),
        (lambda x: functional.adaptive_max_pool2d(x, 2), "AdaptiveMaxPool"),
        (torch.abs, "Abs"),
        (lambda x: x.clamp(min=0), "Clamp"),
        (lambda x: torch.maximum(x, -x), "Maximum"),
        (lambda x: x.amax(0), "Amax"),
        (lambda x: functional.l1_loss(x, torch.zeros_like(x)), "Abs"),
    ],
)
def test_kinks_are_found(function, name):
    x = torch.randn(1, 4, 4, requires_grad=True)
    assert read_graph(function(x).sum()).kinks == (name,)


@pytest.mark.parametrize(
    "function", [functional.gelu, functional.silu, torch.tanh, lambda x: functional.softmax(x, -1)]
)
def test_smooth_functions_are_no_kinks(function):
    x = torch.randn(1, 4, 4, requires_grad=True)
    assert read_graph(function(x).sum()).kinks == ()


def test_precision_is_that_of_the_coarsest_arithmetic():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    assert read_graph(layer(x).square().mean()).precision == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(x)
    assert read_graph(outputs.float().square().mean()).precision == torch.bfloat16
    assert read_graph(layer.double()(x.double()).sum()).precision == torch.float64


def test_a_plain_model_is_not_compiled():
    assert not has_compiled_module(nn.Sequential(nn.Linear(2, 2)))
    assert not has_compiled_module(None)
