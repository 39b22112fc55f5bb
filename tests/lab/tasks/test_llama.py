"""The LLaMA-like Transformer: causal, its positions relative, its size the one that is told."""

import pytest
import torch

from foreshock.lab.tasks import build_task
from foreshock.lab.tasks.causal import CausalSizes
from foreshock.lab.tasks.llama import LlamaTransformer, hidden_width, rotate


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


def test_impossible_sizes():
    with pytest.raises(ValueError, match="a head is 3 wide"):
        LlamaTransformer(CausalSizes(5, 4, width=6, heads=2))
    with pytest.raises(ValueError, match="norm is 'post'"):
        build(norm="post")


def test_unknown_architecture():
    with pytest.raises(ValueError, match="architecture is 'rnn'; it must be one of 'gpt', 'llama'"):
        build_task("language", batch_size=2, seed=0, architecture="rnn")
