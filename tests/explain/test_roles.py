"""Weights that make attention logits or route to experts are known by their names."""

from __future__ import annotations

import pytest

from foreshock.explain import TensorRow, explain_run, make_table
from foreshock.explain.roles import role_of, role_places
from logs_of_explain import AT, grown, grown_norm, write

ATTENTION, ROUTER = "attention logits", "router"


@pytest.mark.parametrize(
    ("name", "types", "role"),
    [
        ("model.layers.0.self_attn.q_proj.weight", {}, ATTENTION),
        ("model.layers.0.self_attn.k_proj.bias", {}, ATTENTION),
        ("transformer.h.0.attn.c_attn.weight", {}, ATTENTION),
        ("gpt_neox.layers.0.attention.query_key_value.weight", {}, ATTENTION),
        ("blocks.0.attn.qkv.weight", {}, ATTENTION),
        ("encoder.layer.0.attention.self.query.weight", {}, ATTENTION),
        ("blocks.0.mixer.to_q.weight", {}, ATTENTION),
        ("layers.0.self_attn.in_proj_weight", {}, ATTENTION),
        ("block.0.in_proj_weight", {"block.0": "MultiheadAttention"}, ATTENTION),
        ("mixer.in_proj.weight", {"mixer": "Mamba"}, ""),
        ("memory.key.weight", {"memory": "Memory"}, ""),
        ("layers.0.self_attn.v_proj.weight", {}, ""),
        ("layers.0.self_attn.o_proj.weight", {}, ""),
        ("model.layers.0.block_sparse_moe.gate.weight", {}, ROUTER),
        ("layers.0.mlp.gate.weight", {"layers.0.mlp": "Qwen2MoeSparseMoeBlock"}, ROUTER),
        ("h.1.ffn.router.classifier.weight", {"h.1.ffn.router": "SwitchTop1Router"}, ROUTER),
        ("layers.0.mlp.gate_proj.weight", {"layers.0.mlp": "Qwen2MoeMLP"}, ""),
        ("lstm.gate.weight", {"lstm": "MyLSTM"}, ""),
        ("", {}, ""),
    ],
)
def test_the_role_of_a_parameter(name, types, role):
    assert role_of(name, types) == role


def rows(qkv, growth=3.0):
    return [
        TensorRow("h.0.attn.qkv.weight", 12, share=qkv * 0.9, norm_growth=growth),
        TensorRow("h.1.attn.qkv.weight", 12, share=qkv * 0.1, norm_growth=1.0),
        TensorRow("h.0.mlp.weight", 12, share=1 - qkv, norm_growth=9.0),
    ]


def test_only_what_holds_most_of_the_unstable_direction_is_named():
    [found] = role_places(make_table(5, "spike", rows(0.6), since=0), {})
    assert found.words == (
        "query and key weights, which make the attention logits: 60 % of the unstable direction, most in "
        "h.0.attn.qkv.weight; the norm of one grew 3.00-fold"
    )
    assert "QK-norm" in found.advice
    [still] = role_places(make_table(5, "spike", rows(0.6, growth=1.0), since=0), {})
    assert "norm" not in still.words
    assert not role_places(make_table(5, "spike", rows(0.4), since=0), {})
    assert not role_places(None, {})
    unknown = [TensorRow("h.0.attn.qkv.weight", 12)]
    assert not role_places(make_table(5, "spike", unknown, since=0), {})


def test_an_explanation_says_where_and_what_helps_there_and_blames_nothing(tmp_path):
    table = {
        "step": AT + 2,
        "reason": "spike",
        "rows": [{"name": "layers.0.mlp.gate.weight", "size": 8, "share": 0.9, "norm_growth": 1.5}],
    }
    meta = {"layers": {"layers.*.mlp": "MoeBlock"}}
    log = write(tmp_path, loss=grown(), gradient_norm=grown_norm(), records=[("tensors", table)], meta=meta)
    [found] = explain_run(log)
    assert found.where[0].startswith("router: 90 % of the unstable direction")
    assert "router z-loss" in found.advice[-1]
    assert found.causes == ()
