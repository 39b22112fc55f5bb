"""The causal Transformers: what they see, and that their parts are those of torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from foreshock.lab.tasks import build_task
from foreshock.lab.tasks.causal import (
    Block,
    CausalSizes,
    CausalTransformer,
    LlamaTransformer,
    hidden_width,
    rotate,
)

SIZES = CausalSizes(vocabulary=11, length=7, layers=2, width=12, heads=3)
norms = pytest.mark.parametrize("norm", ["pre", "post", "none"])


def sizes(norm):
    return CausalSizes(vocabulary=11, length=7, layers=2, width=12, heads=3, norm=norm)


@norms
def test_no_position_sees_the_future(norm):
    model = CausalTransformer(sizes(norm)).double()
    symbols = torch.randint(11, (2, 7))
    changed = symbols.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    before, after = model(symbols), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).any(dim=-1).all()


@norms
def test_a_block_by_another_attention(norm):
    block = Block(sizes(norm)).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    stream = torch.randn(2, 7, 12, dtype=torch.float64)

    def attend(x):
        query, key, value = block.query_key_value(x).chunk(3, dim=-1)
        parts = [tensor.reshape(2, 7, 3, 4).transpose(1, 2) for tensor in (query, key, value)]
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        return block.attention_output(mixed.transpose(1, 2).reshape(2, 7, 12))

    def transform(x):
        return block.hidden_output(functional.gelu(block.hidden(x)))

    first, second = block.attention_norm, block.hidden_norm
    if norm == "post":
        middle = first(stream + attend(stream))
        expected = second(middle + transform(middle))
    else:
        middle = stream + attend(first(stream))
        expected = middle + transform(second(middle))
    assert torch.allclose(block(stream), expected, rtol=0, atol=1e-10)


@norms
def test_norms_are_where_they_should_be(norm):
    model = CausalTransformer(sizes(norm))
    count = sum(isinstance(module, nn.LayerNorm) for module in model.modules())
    assert count == {"pre": 5, "post": 4, "none": 0}[norm]


def test_initial_weights():
    model = CausalTransformer(CausalSizes(vocabulary=300, length=20, layers=1, width=64))
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            # The deviation of n draws is off by 1/√(2n); at least 1,280 draws and five deviations.
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert (parameter == 1).all(), name


def test_last_only_is_the_last_position():
    torch.manual_seed(0)
    whole = CausalTransformer(SIZES)
    torch.manual_seed(0)
    last = CausalTransformer(SIZES, last_only=True)
    symbols = torch.randint(11, (2, 5))
    assert torch.allclose(last(symbols), whole(symbols)[:, -1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, "width is 12; it must be a multiple of heads, 5"),
        ({"norm": "mid"}, "norm is 'mid'"),
        ({"layers": 0}, "layers must be an integer of at least 1"),
    ],
)
def test_impossible_sizes(fields, message):
    with pytest.raises(ValueError, match=message):
        CausalSizes(**{"vocabulary": 11, "length": 7, "width": 12, "heads": 3, **fields})


def build(**sizes):
    torch.manual_seed(0)
    return LlamaTransformer(CausalSizes(11, 6, layers=2, width=8, heads=2, **sizes)).double()


def test_a_prediction_does_not_see_what_follows():
    model, symbols = build(), torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))
    changed = symbols.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    before, after = model(symbols), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_scores_of_rotated_vectors_depend_on_distance_alone():
    query, key = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    turned_query, turned_key = rotate(query.expand(9, 8)), rotate(key.expand(9, 8))
    scores = turned_query @ turned_key.T
    for distance in range(9):
        diagonal = scores.diagonal(-distance)
        # The angles, up to 8, are rounded to float32: 8 · 6e-8 of |q||k| ≈ 10.
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=5e-6)
    assert not torch.isclose(scores[1, 0], scores[2, 0])
    assert torch.allclose(turned_query.norm(dim=1), query.norm().expand(9), atol=5e-6)


def test_number_of_parameters():
    model = build()
    hidden = hidden_width(8)
    block = 4 * 8 * 8 + 3 * 8 * hidden + 2 * 8
    assert sum(p.numel() for p in model.parameters()) == 2 * 11 * 8 + 2 * block + 8


def test_the_large_model_has_187_million_parameters():
    with torch.device("meta"):
        model = LlamaTransformer(CausalSizes(17_200, 512, layers=12, width=1024, heads=16))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(187.0, abs=0.1)


def test_impossible_sizes_of_llama():
    with pytest.raises(ValueError, match="a head is 3 wide"):
        LlamaTransformer(CausalSizes(5, 4, width=6, heads=2))
    with pytest.raises(ValueError, match="norm is 'post'"):
        build(norm="post")


def test_unknown_architecture():
    with pytest.raises(ValueError, match="architecture is 'rnn'; it must be one of 'gpt', 'llama'"):
        build_task("language", batch_size=2, seed=0, architecture="rnn")
