"""Layers by names that say what they are."""

from __future__ import annotations

import pytest

from foreshock.explain.layers import layer_name, layer_types, numberless


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("2", "layer 2 (Conv2d)"),
        ("5", "layer 5"),
        ("head", "head (Linear)"),
        ("blocks.7.qkv", "blocks.7.qkv (Linear)"),
        ("blocks.7", "blocks.7 (Block)"),
        ("position", "position"),
        ("unnamed.3", "unnamed.3"),
    ],
)
def test_a_layer_is_shown_with_its_type_where_that_is_known(name, shown):
    types = {"2": "Conv2d", "head": "Linear", "blocks.*.qkv": "Linear", "blocks.*": "Block"}
    assert layer_name(name, types) == shown


def test_only_whole_parts_of_a_name_are_numbers():
    assert numberless("blocks.11.conv2.0.w1") == "blocks.*.conv2.*.w1"


@pytest.mark.parametrize("layers", [None, "Linear", ["Linear"], 3])
def test_a_header_without_layers_knows_no_types(log, layers):
    assert layer_types(log(layers=layers)) == {}


def test_types_come_from_the_header(log):
    assert layer_types(log(layers={"0": "Linear", "1": "\x1b[2J"})) == {"0": "Linear", "1": r"\x1b[2J"}
