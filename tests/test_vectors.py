"""Flat vectors and back."""

from __future__ import annotations

import pytest
import torch

from foreshock.vectors import flatten, local, rayleigh_quotient, split, total_norm, vector_dtype


def test_split_undoes_flatten_and_gives_views():
    tensors = [torch.randn(2, 3), torch.randn(()), torch.randn(4)]
    vector = flatten([tensors[0], None, tensors[2]], tensors)
    parts = split(vector, tensors)
    assert torch.equal(parts[0], tensors[0])
    assert parts[1].shape == ()
    assert float(parts[1]) == 0
    parts[2].fill_(7)
    assert vector[-4:].tolist() == [7, 7, 7, 7]


@pytest.mark.parametrize("missing", [(), (1,), (0, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flatten_makes_a_new_vector_without_a_graph(missing, dtype):
    like = [torch.zeros(2, 2), torch.zeros(3, 0), torch.zeros(())]
    given = [torch.ones_like(one, dtype=dtype, requires_grad=True) for one in like]
    vector = flatten([None if place in missing else one for place, one in enumerate(given)], like)
    assert vector.tolist() == [1.0 * (0 not in missing)] * 4 + [1.0 * (2 not in missing)]
    assert vector.dtype == torch.float32
    assert not vector.requires_grad
    vector.add_(1)
    assert all(bool((one == 1).all()) for one in given)


def test_flatten_copies_a_tensor_that_comes_alone():
    alone = torch.ones(3)
    flatten([alone], [alone]).zero_()
    assert alone.tolist() == [1, 1, 1]


def test_flatten_takes_channels_last_tensors_in_logical_order():
    image = torch.arange(16.0).view(1, 4, 2, 2)
    flat = flatten([image.to(memory_format=torch.channels_last)], [image])
    assert flat.tolist() == list(range(16))


def test_flatten_makes_sparse_tensors_dense():
    sparse = torch.sparse_coo_tensor([[0, 2, 0]], [1.0, 2.0, 3.0], (3,), check_invariants=True)
    assert flatten([sparse], [torch.zeros(3)]).tolist() == [4, 0, 2]


class Shard(torch.Tensor):
    """Stands for a distributed tensor of which this process holds the first row."""

    def to_local(self):
        return self.as_subclass(torch.Tensor)[:1]


def test_of_distributed_tensors_the_shards_are_taken():
    whole = torch.arange(6.0).view(2, 3).as_subclass(Shard)
    assert local(whole).tolist() == [[0, 1, 2]]
    assert local(torch.ones(2)).tolist() == [1, 1]
    flat = flatten([whole], [whole])
    assert flat.tolist() == [0, 1, 2]
    assert split(flat, [whole])[0].shape == (1, 3)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ([torch.bfloat16, torch.float16], torch.float32),
        ([torch.float32], torch.float32),
        ([torch.float32, torch.float64], torch.float64),
    ],
)
def test_vectors_are_at_least_float32(dtypes, expected):
    assert vector_dtype([torch.zeros(1, dtype=dtype) for dtype in dtypes]) == expected


def test_rayleigh_quotient_in_a_metric():
    x, metric = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.5])
    product = torch.tensor([3.0, 5.0])
    assert rayleigh_quotient(x, product) == pytest.approx(13 / 5)
    assert rayleigh_quotient(x, product, metric) == pytest.approx(13 / 6)


@pytest.mark.parametrize("order", [1, 2])
def test_total_norm_is_that_of_the_joined_vector(order):
    tensors = [torch.randn(3, 2), torch.randn(5)]
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    expected = float(torch.linalg.vector_norm(joined, order))
    assert float(total_norm(tensors, order=order)) == pytest.approx(expected)


def test_total_norm_adds_up_repeated_entries_of_sparse_tensors():
    sparse = torch.sparse_coo_tensor([[0, 0]], [3.0, 1.0], (5,), check_invariants=True)
    assert float(total_norm([sparse])) == pytest.approx(4.0)
