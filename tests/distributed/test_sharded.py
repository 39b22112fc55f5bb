"""Models that several processes hold together are measured as one process would, and none hangs."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foreshock.distributed.pieces import Piece
from foreshock.distributed.shards import ShardVector, Spread, part_of
from foreshock.runlog import read_run
from foreshock.vectors import block_sums, dimension, inner_products, random_like

_SCRIPT = Path(__file__).with_name("sharded.py")


# In one start, which would be most of the time; the last "scenario" that is printed is the one that failed.
@pytest.mark.distributed
@pytest.mark.parametrize(("which", "processes"), [("all", "2"), ("four", "4")])
def test_processes_that_share_a_model(which, processes, tmp_path):
    found = subprocess.run(
        [sys.executable, str(_SCRIPT), str(tmp_path), which, processes],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-5000:]


@pytest.mark.distributed
@pytest.mark.parametrize("scenario", ["killed", "killed_in_measure"])
def test_a_process_that_is_killed_in_a_probe(scenario, tmp_path):
    found = subprocess.run(
        [sys.executable, str(_SCRIPT), str(tmp_path), scenario],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-5000:]


@pytest.mark.distributed
def test_the_example_measures_the_same_however_the_model_is_shared(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = subprocess.run(
        [sys.executable, str(_SCRIPT.with_name("example.py")), str(tmp_path), str(port)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-5000:]
    modes = ("ddp", "fsdp2", "fsdp2-tp")
    runs = {mode: read_run(tmp_path / "runs" / mode).records for mode in modes}
    # Not the second one's later readings: float32 rounds in another order, and training multiplies that.
    first = {mode: [run[kind][0] for kind in ("noise", "curvature")] for mode, run in runs.items()}
    for mode in modes:
        noise, curvature = first[mode]
        assert noise["step"] == curvature["step"] == 10
        assert f"foreshock report runs/{mode}" in found.stdout
        # Where the batch is one of both processes it has other halves, so that its noise is another.
        if mode != "fsdp2-tp":
            assert noise["mean"] == pytest.approx(first["ddp"][0]["mean"], rel=0.01)
        assert curvature["stability_ratio"] == pytest.approx(first["ddp"][1]["stability_ratio"], rel=0.02)


def shards(*parts):
    """Two processes in one: the total of what the first has is that of both."""
    first, _ = parts
    weights = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)  # the last entry is in both

    def total(sums):
        return sums + others.pop(0)

    others = []
    spread = Spread(weights, total, lambda seed: torch.full((3,), float(seed)), 5)
    return ShardVector.of(first, spread), spread, others


def test_a_vector_of_two_processes_has_the_sums_of_the_whole():
    one, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, -5.0, 3.0])
    whole = torch.tensor([1.0, 2.0, 3.0, 4.0, -5.0])
    vector, _, others = shards(one, other)
    others += [whole @ whole - (1 + 4 + 4.5), whole.sum() - (1 + 2 + 1.5), torch.tensor([41.0 + 4.5])]
    assert torch.dot(vector, 1.0 * vector).item() == pytest.approx((whole @ whole).item())
    assert vector.sum().item() == pytest.approx(whole.sum().item())
    assert inner_products([vector], vector).tolist() == pytest.approx([(whole @ whole).item()])
    others += [torch.tensor(41.0 + 4.5)]
    assert torch.linalg.vector_norm(vector).item() == pytest.approx(whole.norm().item())
    others += [torch.tensor([0.0, 4.5])]
    assert block_sums(vector, vector, [one[:2], one[2:]]).tolist() == [5.0, 9.0]
    others += [torch.tensor(2.5), torch.tensor(0.0)]
    assert bool((vector > 0).all()) is False
    assert bool((vector > 10).any()) is False
    assert dimension(vector) == 5
    assert random_like(vector, 7).part.tolist() == [7.0, 7.0, 7.0]
    assert not others


def test_other_operations_are_on_the_part_of_the_process_or_refused():
    vector, *_ = shards(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
    assert isinstance(vector * 2, ShardVector)
    assert vector.mul_(2) is not None
    assert part_of(vector).tolist() == [2.0, 4.0, 6.0]
    assert type(part_of(vector)) is torch.Tensor
    with pytest.raises(NotImplementedError, match="of one part alone"):
        vector.max()
    with pytest.raises(NotImplementedError, match="order 1"):
        torch.linalg.vector_norm(vector, 1)


@pytest.mark.parametrize(("length", "count"), [(5, 2), (4, 2), (2, 4), (7, 4), (1, 3)])
@pytest.mark.parametrize("dimension", [0, 1])
def test_pieces_are_cut_as_torch_cuts(length, count, dimension):
    shape = torch.Size([length, 3] if dimension == 0 else [3, length])
    whole = torch.arange(float(shape.numel())).view(shape)
    chunks = list(whole.chunk(count, dimension))
    for index in range(count):
        found = Piece(shape, dimension, count, index, True, 1.0, 1.0, 0).of(whole.flatten())
        expected = chunks[index] if index < len(chunks) else whole.narrow(dimension, 0, 0)
        assert torch.equal(found, expected)
