"""Which optimizers are read, several at once, loss scales, and the sums behind the lag statistics."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn, optim

from foreshock.dynamics import second_moment_lag
from foreshock.preconditioner import (
    LiveParameter,
    ParameterStep,
    Reader,
    find_reader,
    read_gradient_norm,
    read_preconditioner,
    read_second_moment_sums,
    register_preconditioner,
    stock_name,
)
from preconditioner.stepping import largest_error, moving, parameters, predicted, set_gradients


class RenamedAdam(optim.Adam):
    """Nothing changed."""


class OtherAdam(optim.Adam):
    """A different step."""

    def step(self, closure=None):
        return None


class SignDescent(optim.Optimizer):
    """An optimizer that Foreshock has never heard of."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})


def test_subclass_is_read_only_if_its_step_is_the_same():
    assert find_reader(RenamedAdam(parameters())) is find_reader(optim.Adam(parameters()))
    with pytest.raises(TypeError, match="OtherAdam is not an optimizer Foreshock can read"):
        find_reader(OtherAdam(parameters()))


def test_unknown_optimizer_is_refused_by_name_with_the_way_out():
    with pytest.raises(TypeError, match=r"SignDescent is not.*Adafactor.*register_preconditioner"):
        read_preconditioner(SignDescent(parameters(), lr=0.1))


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (optim.SparseAdam, "sparse=False"),
        (optim.LBFGS, "not diagonal"),
        (optim.Rprop, "sign of the gradient"),
    ],
)
def test_what_can_not_be_read_is_refused_with_its_reason(cls, reason):
    with pytest.raises(TypeError, match=f"{cls.__name__} cannot be monitored.*{reason}"):
        find_reader(cls(parameters()))


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (3, r"reader is 3; pass a foreshock.Reader\(step="),
        (Reader(step=None), "step of the reader is None; it must be a function"),
        (Reader(step=repr, raise_second_moment="x"), "raise_second_moment of the reader is 'x'"),
    ],
)
def test_what_is_no_reader_is_refused(reader, message):
    with pytest.raises(TypeError, match=message):
        register_preconditioner(SignDescent, reader)


def test_a_registered_reader_is_used(monkeypatch):
    monkeypatch.setattr("foreshock.preconditioner.registry._READERS", {})

    def read(live: LiveParameter) -> ParameterStep:
        gradient = live.used_gradient()
        return ParameterStep(
            gradient, gradient.sign(), live.identity(), live.learning_rate, 1.0, linear=False
        )

    reader = Reader(read)
    register_preconditioner(SignDescent, reader)
    optimizer = SignDescent(parameters(), lr=0.1)
    assert find_reader(optimizer) is reader
    set_gradients(moving(optimizer), 1.0)
    for change, p in zip(predicted(optimizer), moving(optimizer), strict=True):
        assert torch.equal(change, -0.1 * p.grad.sign())
    assert read_second_moment_sums(optimizer) == []
    register_preconditioner(optim.Adam, reader)
    assert find_reader(optim.Adam(parameters())) is reader
    with pytest.raises(TypeError, match="not a subclass"):
        register_preconditioner(int, reader)


def test_a_class_can_be_said_to_take_the_step_of_its_base(monkeypatch):
    class Announced(optim.AdamW):
        def step(self, closure=None):
            self.announced = True
            return super().step(closure)

    class Heir(Announced):
        pass

    monkeypatch.setattr("foreshock.preconditioner.registry._READERS", {})
    monkeypatch.setattr("foreshock.preconditioner.registry._STEP_OF", {})
    enough = re.escape("foreshock.register_preconditioner(Announced, torch.optim.AdamW) is enough")
    with pytest.raises(TypeError, match=f"calls that of AdamW and leaves the update as it is, {enough}"):
        find_reader(Announced(parameters()))
    register_preconditioner(Announced, optim.AdamW)
    for cls in (Announced, Heir):
        optimizer = cls(parameters(), lr=0.1)
        assert find_reader(optimizer) is find_reader(optim.AdamW(parameters()))
        assert stock_name(optimizer) == "torch.optim.AdamW"
        assert largest_error(optimizer, steps=6) < 1e-6
    reader = Reader(lambda live: None)
    register_preconditioner(Announced, reader)
    assert find_reader(Announced(parameters())) is reader
    assert stock_name(Announced(parameters())) is None


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (optim.SGD, "OtherAdam can't take the step of SGD, which is not a base class of it"),
        (OtherAdam, "OtherAdam can't take the step of OtherAdam, which is not a base class"),
        (object, "can't take the step of object"),
        (optim.Optimizer, "the step of Optimizer, which OtherAdam is said to take, can't be read"),
    ],
)
def test_what_a_class_can_not_take_the_step_of(base, message):
    with pytest.raises(TypeError, match=message):
        register_preconditioner(OtherAdam, base)


@pytest.mark.parametrize("cls", [optim.Adam, optim.SGD, optim.Adagrad])
def test_sparse_gradient_is_refused(cls):
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = cls(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="sparse=False"):
        read_preconditioner(optimizer)


def test_several_optimizers_are_read_as_one():
    first, second, third, fourth = parameters()
    together = (optim.AdamW([first, second], lr=0.1), optim.SGD([third], lr=0.2), optim.Adagrad([fourth]))
    assert largest_error(together, steps=4) < 1e-12
    set_gradients([first, second, third, fourth], 1.0)
    preconditioner = read_preconditioner(together)
    alone = [read_preconditioner(one).scale_root() for one in together]
    assert torch.equal(preconditioner.scale_root(), torch.cat(alone))
    assert preconditioner.common_rate is None
    assert preconditioner.largest_rate == 0.2
    [sums] = read_second_moment_sums(together)
    assert sums == read_second_moment_sums(together[0])[0]
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in [first, second, third, fourth]))
    assert read_gradient_norm(together) == pytest.approx(norm, rel=1e-13)


def test_a_parameter_of_two_optimizers_is_refused():
    shared = parameters()
    with pytest.raises(ValueError, match="two of the optimizers"):
        read_preconditioner([optim.Adam(shared), optim.SGD(shared[:1])])
    with pytest.raises(ValueError, match="no optimizer was given"):
        read_preconditioner([])


def test_mixed_signs_are_refused():
    first, second, *_ = parameters()
    optimizer = optim.Adam([{"params": [first], "maximize": True}, {"params": [second]}])
    set_gradients([first, second], 1.0)
    with pytest.raises(ValueError, match="some parameter groups maximize"):
        _ = read_preconditioner(optimizer).sign


def test_a_loss_scale_is_divided_out():
    optimizer = optim.AdamW(parameters(), lr=0.1)
    largest_error(optimizer, steps=2)
    set_gradients(moving(optimizer), 1.0)
    exact, sums = predicted(optimizer), read_second_moment_sums(optimizer)
    norm = read_gradient_norm(optimizer)
    for p in moving(optimizer):
        p.grad *= 1024.0
    assert all(map(torch.equal, predicted(optimizer, gradient_scale=1024.0), exact))
    assert read_second_moment_sums(optimizer, gradient_scale=1024.0) == sums
    assert read_gradient_norm(optimizer, gradient_scale=1024.0) == norm


def test_the_scale_of_a_fused_optimizer_is_divided_out():
    optimizer = optim.Adam(parameters(), lr=0.1, fused=True)
    largest_error(optimizer, steps=2)
    set_gradients(moving(optimizer), 1024.0)
    # This is what torch.amp.GradScaler.step does to a fused optimizer.
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    before, changes = [p.detach().clone() for p in moving(optimizer)], predicted(optimizer)
    optimizer.step()
    for old, new, change in zip(before, moving(optimizer), changes, strict=True):
        assert torch.allclose(new.detach() - old, change, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_scale_is_refused(scale):
    optimizer = optim.Adam(parameters())
    for read in (read_preconditioner, read_second_moment_sums, read_gradient_norm):
        with pytest.raises(ValueError, match="gradient_scale is"):
            read(optimizer, gradient_scale=scale)


def test_nothing_to_move():
    optimizer = optim.Adam(parameters())
    preconditioner = read_preconditioner(optimizer)
    assert preconditioner.active == ()
    assert math.isnan(preconditioner.coverage)
    assert read_second_moment_sums(optimizer) == []
    assert read_gradient_norm(optimizer) == 0.0


AVERAGES = {
    optim.Adam: ("exp_avg_sq", {"betas": (0.9, 0.99)}),
    optim.NAdam: ("exp_avg_sq", {"betas": (0.9, 0.99)}),
    optim.RAdam: ("exp_avg_sq", {"betas": (0.9, 0.99)}),
    optim.RMSprop: ("square_avg", {"alpha": 0.99}),
    optim.Adadelta: ("square_avg", {"rho": 0.99}),
}


@pytest.mark.parametrize("cls", AVERAGES)
def test_sums_are_those_of_the_state(cls):
    name, options = AVERAGES[cls]
    optimizer = cls(parameters(), lr=0.01, **options)
    largest_error(optimizer, steps=3)
    set_gradients(moving(optimizer), 1.0)
    [sums] = read_second_moment_sums(optimizer)
    total = sum(float(optimizer.state[p][name].sum()) for p in moving(optimizer))
    assert sums.previous == pytest.approx(total, rel=1e-13)
    assert (sums.beta2, sums.step) == (0.99, 4)
    optimizer.step()
    total = sum(float(optimizer.state[p][name].sum()) for p in moving(optimizer))
    assert sums.current == pytest.approx(total, rel=1e-12)


def test_sums_of_adafactor_are_those_of_its_estimate():
    optimizer = optim.Adafactor(parameters(), lr=0.01, eps=(1e-12, 1e-3))
    set_gradients(moving(optimizer), 1.0)
    assert read_second_moment_sums(optimizer) == []
    largest_error(optimizer, steps=3)
    set_gradients(moving(optimizer), 1.0)
    [sums] = read_second_moment_sums(optimizer)
    optimizer.step()
    estimates = 0.0
    for p in moving(optimizer):
        state = optimizer.state[p]
        if "variance" in state:
            estimates += float(state["variance"].sum())
        else:
            rows, columns = state["row_var"], state["col_var"]
            estimates += float((rows @ columns / rows.mean(dim=-2, keepdim=True)).sum())
    assert sums.beta2 == pytest.approx(1 - 4**-0.8)
    assert sums.current == pytest.approx(estimates, rel=1e-12)
    assert sums.corrected == sums.current


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: optim.SGD(p, lr=0.1),
        lambda p: optim.Adagrad(p),
        lambda p: optim.Adamax(p),
        lambda p: optim.Adam(p, betas=(0.9, 0.0)),
        lambda p: optim.RMSprop(p, alpha=0.0),
    ],
)
def test_without_a_decaying_average_there_is_no_lag(optimizer):
    optimizer = optimizer(parameters())
    largest_error(optimizer, steps=2)
    assert read_second_moment_sums(optimizer) == []
    lag = second_moment_lag([])
    assert math.isnan(lag.instant_lag)
    assert math.isnan(lag.decay_exponent)


@pytest.mark.parametrize(("cls", "name"), [(optim.RMSprop, "square_avg"), (optim.Adagrad, "sum")])
def test_a_moment_that_is_no_tensor_is_refused_by_name(cls, name):
    weight = nn.Parameter(torch.ones(3))
    optimizer = cls([weight], lr=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    optimizer.state[weight][name] = 0.5
    with pytest.raises(ValueError, match=f"'{name}' in the optimizer's state is a float"):
        read_preconditioner(optimizer)
