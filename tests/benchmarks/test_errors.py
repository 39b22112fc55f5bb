"""The networks whose dense Hessian is known, and what eigenvalues claim on them."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks.curvature import errors
from benchmarks.curvature.errors import EDGES, Reading, histogram, measure, page, summarise
from benchmarks.curvature.nets import random_net, random_nets

from oracles import dense_hessian

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop", "ignore:`torch.jit:DeprecationWarning"
)


def reading(true, claimed, way="one call", net=0):
    return Reading(way, net, true, claimed, 8, converged=True)


@pytest.mark.parametrize("seed", range(9))
def test_the_dense_hessian_is_that_of_the_oracle(seed):
    net = random_net(seed)
    truth = dense_hessian(lambda: net.loss_fn(net.model, net.batch), net.parameters)
    torch.testing.assert_close(net.hessian(), truth, rtol=1e-9, atol=1e-12)


def test_the_networks_are_hard_ones():
    """One in twenty has a second eigenvalue within 1 % of the first, and one in ten within 5 %."""
    gaps = []
    for net in random_nets(90):
        values = torch.linalg.eigvalsh(net.hessian())
        gaps.append(float(1 - values[-2] / values[-1]))
    assert sum(gap < 0.01 for gap in gaps) >= 90 / 20
    assert sum(gap < 0.05 for gap in gaps) >= 90 / 10


def test_seeds_repeat():
    one, other = random_net(4), random_net(4)
    assert torch.equal(one.hessian(), other.hessian())
    assert random_net(5).name != one.name


def check(count, first):
    found = [one for net in random_nets(count, first) for one in measure(net)]
    assert {one.way for one in found} >= set(errors.OURS)
    ours = [one for one in found if one.way in errors.OURS]
    # Ritz values do not exceed the largest eigenvalue.
    assert min(one.true for one in ours) > -1e-9
    assert max(one.ratio for one in ours) <= 2
    return sum(one.ratio > 1 for one in ours), len(ours)


def test_no_eigenvalue_is_wrong_beyond_its_error():
    # Among them those on which a single start ended 0.6 to 39 % low with a claim of 0.1 %.
    assert check(18, 1128)[0] == 0


@pytest.mark.slow
def test_hardly_an_eigenvalue_is_wrong_beyond_its_error():
    beyond, readings = check(200, 5000)
    assert beyond <= 1 + readings // 1000


def test_ratios_and_their_histogram():
    assert reading(1e-10, 0.0).ratio == 0  # both are rounding
    assert reading(0.01, 0.0).ratio == float("inf")
    assert reading(0.01, 0.02).ratio == 0.5
    shares = histogram(
        [reading(0.03, 0.01), reading(0.015, 0.01), reading(1e-12, 0.01), reading(0.004, 0.01)]
    )
    assert shares == [0.25, 0, 0, 0, 0.25, 0, 0.25, 0.25]
    assert len(shares) == len(EDGES) + 1


def test_the_page_says_what_was_measured():
    found = summarise(
        [reading(0.03, 0.01), reading(0.0, 0.01, net=1), reading(0.001, 0.01, way="warm probe")]
    )
    text = page(json.loads(json.dumps(found)))
    assert "| one call | 2 | 8.0 (8) | 100.0% | 1 (50.00%) | 3 | 50.0% | 0.0% | 3.00% |" in text
    assert "| warm probe | 1 | 8.0 (8) | 100.0% | 0 (0.00%) | 0.1 | 0.0% | 0.0% | 0.10% |" in text
    assert "| 2 to ∞ | 50.00 | 0.00 |" in text
    assert [one["net"] for one in found["beyond"]] == [0]


def test_what_claims_no_error_is_not_said_to_be_beyond_it():
    found = summarise([reading(0.03, 0.01), reading(0.06, None, way="PyHessian")])
    text = page(json.loads(json.dumps(found)))
    assert "| PyHessian | 1 | 8.0 (8) | 100.0% | – | – | 100.0% | 100.0% | 6.00% |" in text
    assert "| | one call |\n" in text  # the histogram is of those that claim one


@pytest.mark.parametrize("tool", ["pyhessian", "hessian_eigenthings", "curvlinops"])
@pytest.mark.parametrize("seed", [1, 5, 6])  # one with batch normalisation, one with shared weights
def test_peers_are_measured_where_they_are_installed(tool, seed):
    pytest.importorskip(tool)
    net = random_net(seed)
    net.backward()
    top = float(torch.linalg.eigvalsh(net.hessian())[-1])
    names = {method.tool: method.name for method in errors.methods() if not method.warm}
    [found] = [one for one in errors._peers(net, top) if one.way == names[tool]]
    assert found.true < (0.1 if tool == "pyhessian" else 1e-6)
    assert (found.claimed is None) == (tool == "pyhessian")


def test_the_published_page_is_made_from_the_kept_figures(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["errors", "--nets", "0"])
    errors.main()
    root = errors.RESULTS.parents[3]
    assert capsys.readouterr().out == (root / "docs/benchmarks/errors.md").read_text()
