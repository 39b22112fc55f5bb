"""QK-clip on small Transformers: what it does to the logits, against logits that are computed anew."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import Subject, method
from foreshock.lab.tasks import OptimizerConfig, build_optimizer
from foreshock.lab.tasks.causal import CausalSizes, CausalTransformer, LlamaTransformer, rotate

HEADS = 2
SIZES = CausalSizes(vocabulary=7, length=5, layers=2, width=8, heads=HEADS)
SYMBOLS = torch.tensor([[0, 3, 6, 2, 1], [5, 5, 0, 1, 4]])


def built(family, scale):
    """Return a Transformer of which the first head of the first block has large logits, and its helper."""
    torch.manual_seed(1)
    model = family(SIZES).double()
    with torch.no_grad():
        for block in model.blocks:
            block.query_key_value.weight.normal_()
            if block.query_key_value.bias is not None:
                block.query_key_value.bias.normal_()
        model.blocks[0].query_key_value.weight[:4].mul_(scale)  # queries of the first head
    optimizer = build_optimizer(model, OptimizerConfig())
    return model, method("qk-clip").intervene(Subject(model, optimizer, lambda model, batch: None))


def logits(block, stream):
    """Return (batch, heads, length, length), pair by pair, −∞ for the future."""
    queries, keys, _ = block.query_key_value(block.attention_norm(stream)).chunk(3, dim=-1)
    found = torch.full((len(stream), HEADS, 5, 5), -math.inf, dtype=torch.float64)
    for head in range(HEADS):
        query, key = (one[..., 4 * head : 4 * head + 4] for one in (queries, keys))
        if isinstance(block, type(LlamaTransformer(SIZES).blocks[0])):
            query, key = rotate(query), rotate(key)
        for i in range(5):
            for j in range(i + 1):
                found[:, head, i, j] = (query[:, i] * key[:, j]).sum(-1) / 2
    return found


def stream_of(model, index):
    stream = model.embedding(SYMBOLS)
    stream = stream + model.position[:5] if hasattr(model, "position") else stream
    return model.blocks[:index](stream)


@pytest.mark.parametrize("family", [CausalTransformer, LlamaTransformer])
def test_only_heads_above_tau_are_shrunk_to_it(family):
    model, helper = built(family, 300.0)
    stream = stream_of(model, 0)
    before = [logits(block, stream) for block in model.blocks]
    largest = before[0].amax(dim=(0, 2, 3))
    assert largest[0] > 100 > largest[1]
    weights = [block.query_key_value.weight.detach().clone() for block in model.blocks]
    model(SYMBOLS)
    helper.before_step(None, 1.0)
    assert helper.after_step()
    assert not helper.after_step()  # the next one has its own forward pass
    after = logits(model.blocks[0], stream)
    assert after[:, 0].max().item() == pytest.approx(100.0)
    finite = before[0][:, 0].isfinite()
    assert torch.allclose(after[:, 0][finite] * largest[0] / 100, before[0][:, 0][finite], rtol=1e-10)
    assert torch.equal(after[:, 1], before[0][:, 1])
    first = model.blocks[0].query_key_value.weight
    root = (100 / largest[0]).sqrt()
    for rows, factor in ((slice(0, 4), root), (slice(4, 8), 1), (slice(8, 12), root), (slice(12, 24), 1)):
        assert torch.allclose(first[rows], factor * weights[0][rows], rtol=1e-12)
    assert torch.equal(model.blocks[1].query_key_value.weight, weights[1])


def test_what_is_below_tau_and_what_validation_sees_changes_nothing():
    for scale, training in ((1.0, True), (300.0, False)):
        model, helper = built(CausalTransformer, scale)
        state = {name: one.clone() for name, one in model.state_dict().items()}
        model.train(training)(SYMBOLS)
        assert not helper.after_step()
        assert all(torch.equal(state[name], one) for name, one in model.state_dict().items())


def test_the_future_does_not_count():
    """Only the last key is large: the last query alone sees it, and is orthogonal to it."""
    model, helper = built(CausalTransformer, 1.0)
    block = model.blocks[0]
    output = torch.zeros(1, 5, 24, dtype=torch.float64)
    output[0, :4, 0] = 1e3
    output[0, 4, 9] = output[0, 4, 0] = 0.0
    output[0, 4, 8] = 1e3
    for hook in block.query_key_value._forward_hooks.values():
        hook(block.query_key_value, (), output)
    assert not helper.after_step()
    output[0, 4, 0] = 1e3
    for hook in block.query_key_value._forward_hooks.values():
        hook(block.query_key_value, (), output)
    assert helper.after_step()


def test_after_closing_nothing_is_watched_and_a_model_without_attention_is_left_alone():
    model, helper = built(CausalTransformer, 300.0)
    helper.close()
    model(SYMBOLS)
    assert not helper.after_step()
    plain = nn.Linear(2, 1)
    subject = Subject(plain, build_optimizer(plain, OptimizerConfig()), lambda model, batch: None)
    helper = method("qk-clip").intervene(subject)
    plain(torch.ones(1, 2))
    assert not helper.after_step()
