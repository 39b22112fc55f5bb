"""Wrapped optimizers are read as what they wrap."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import optim

from foreshock.preconditioner import find_reader, live_groups, read_second_moment_sums, unwrap
from preconditioner.stepping import largest_error, moving, parameters, set_gradients


class AcceleratedOptimizer(optim.Optimizer):
    """The part of accelerate's wrapper that matters here."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def step(self, closure=None):
        self.optimizer.step(closure)


class DerivedWrapper(AcceleratedOptimizer):
    """As accelerate's own integrations derive from it."""


AcceleratedOptimizer.__module__ = "accelerate.optimizer"


@pytest.mark.parametrize("cls", [AcceleratedOptimizer, DerivedWrapper])
def test_wrapper_is_known_by_name(cls):
    inner = optim.AdamW(parameters(), lr=0.01)
    wrapper = cls(AcceleratedOptimizer(inner))
    assert unwrap(wrapper) is inner
    assert unwrap(inner) is inner
    assert find_reader(wrapper) is find_reader(inner)
    assert [a is b for a, b in zip(live_groups(wrapper), inner.param_groups, strict=True)] == [True]
    assert largest_error(wrapper, steps=4) < 1e-12


def test_a_stranger_is_not_unwrapped():
    class Wrapper(optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    with pytest.raises(TypeError, match="Wrapper is not an optimizer Foreshock can read"):
        find_reader(Wrapper(optim.Adam(parameters())))


def test_the_real_accelerated_optimizer():
    accelerate = pytest.importorskip("accelerate")
    wrapper = accelerate.Accelerator(cpu=True).prepare_optimizer(optim.AdamW(parameters(), lr=0.01))
    assert type(wrapper).__name__ == "AcceleratedOptimizer"
    assert isinstance(unwrap(wrapper), optim.AdamW)
    assert largest_error(wrapper, steps=4) < 1e-12


def test_a_scheduler_needs_nothing():
    optimizer = optim.AdamW(parameters(), lr=0.01)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in range(3):
        assert largest_error(optimizer, steps=1) < 1e-12
        scheduler.step()


@pytest.fixture
def _one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
@pytest.mark.usefixtures("_one_process")
def test_zero_redundancy_optimizer_sees_the_scheduled_rate():
    with warnings.catch_warnings():
        # Importing torch.distributed.optim compiles its own optimizers with torch.jit.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch.distributed.optim import ZeroRedundancyOptimizer
    sharded = ZeroRedundancyOptimizer(parameters(), optim.AdamW, lr=0.01)
    assert isinstance(unwrap(sharded), optim.AdamW)
    assert largest_error(sharded, steps=3) < 1e-12
    # A scheduler changes the outer groups; the inner ones follow only inside step().
    sharded.param_groups[0]["lr"] = 0.5
    assert unwrap(sharded).param_groups[0]["lr"] == 0.01
    assert largest_error(sharded, steps=1) < 1e-12
    set_gradients(moving(sharded), 1.0)
    [sums] = read_second_moment_sums(sharded)
    assert sums.step == 5
    assert sums.previous > 0
