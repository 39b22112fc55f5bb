"""What can't be restored exactly is refused with words; nothing is changed by a refusal."""

import copy
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn, optim

from foreshock.recorder import Recorder, UnsupportedStateError
from foreshock.recorder.encoding import NamedTensors, decode, encode
from foreshock.recorder.ring import Ring


def trained(model=None, optimizer=None, *, recorder=None):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = optimizer or optim.Adam(model.parameters(), lr=0.1)
    recorder = recorder or Recorder(every=1)
    recorder.attach(model, [optimizer])
    for step in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        recorder.take(step)
        optimizer.step()
    return model, optimizer, recorder


def more_groups(model, optimizer):
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def another_order(model, optimizer):
    group = optimizer.param_groups[0]
    group["params"] = [group["params"][2], *group["params"][1:2], group["params"][0], group["params"][3]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (more_groups, "has 2 parameter groups, and the snapshot 1"),
        (another_order, "in another order .'1.weight' where '0.weight' was"),
        (lambda m, o: m.append(nn.Linear(1, 1)), "2 tensors are in one of snapshot and model only"),
        (lambda m, o: m[0].register_buffer("b", torch.ones(1)), "'buffer/0.b', in the model"),
        (
            lambda m, o: m.double(),
            "is torch.float32 of shape .* in the snapshot, and in the model torch.float64",
        ),
    ],
)
def test_a_training_of_another_shape_is_refused_and_left_as_it_is(change, words):
    model, optimizer, recorder = trained()
    change(model, optimizer)
    before = [p.detach().clone() for p in model.parameters()], copy.deepcopy(optimizer.state_dict())
    with pytest.raises(UnsupportedStateError, match=words):
        recorder.newest().restore(model, optimizer)
    assert all(map(torch.equal, before[0], model.parameters()))
    assert str(optimizer.state_dict()) == str(before[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scheduler": object()}, "and what is to be restored is 'scheduler'"),
        ({"without": ["gradient"]}, "without has 'gradient'; it may have gradients, random"),
    ],
)
def test_what_was_not_recorded_is_not_restored(options, words):
    model, optimizer, recorder = trained()
    with pytest.raises(UnsupportedStateError, match=words):
        recorder.newest().restore(model, optimizer, **options)


def test_a_schedule_that_was_recorded_is_asked_for():
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 2)
    _, _, recorder = trained(model, optimizer, recorder=Recorder(every=1, scheduler=scheduler))
    with pytest.raises(UnsupportedStateError, match=r"has the state of 'scheduler', and what .* is nothing"):
        recorder.newest().restore(model, optimizer)
    recorder.newest().restore(model, optimizer, without=["scheduler"])
    recorder.newest().restore(model, optimizer, scheduler=scheduler)


class Refusing(nn.Linear):
    """A layer that refuses its state the second time."""

    count, refuses = 0, False

    def get_extra_state(self):
        return self.count

    def set_extra_state(self, state):
        if self.refuses:
            raise RuntimeError("not now")
        self.count = state


def test_a_module_that_refuses_its_state_leaves_the_training_as_it_was():
    model = nn.Sequential(Refusing(3, 4), Refusing(4, 2))
    model, optimizer, recorder = trained(
        model, recorder=Recorder(every=1, others={"other": (other := Refusing(1, 1))})
    )
    snapshot = recorder.newest()
    model[0].count = model[1].count = 7
    other.weight.data.fill_(3.0)
    model[1].refuses = True
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), other.state_dict()))
    with pytest.raises(
        UnsupportedStateError, match=r"the state of module '1' can't be put back: RuntimeError: not now"
    ):
        snapshot.restore(model, optimizer, others={"other": other})
    assert str(before) == str((model.state_dict(), optimizer.state_dict(), other.state_dict()))
    model[1].refuses = False
    snapshot.restore(model, optimizer, others={"other": other})
    assert model[1].count == 0


def test_other_optimizers_are_refused():
    model, optimizer, recorder = trained()
    with pytest.raises(
        UnsupportedStateError, match=r"is a torch.optim.sgd.SGD, and was a torch.optim.adam.Adam"
    ):
        recorder.newest().restore(model, optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UnsupportedStateError, match="the snapshot has 1 optimizers, and 2 are given"):
        recorder.newest().restore(model, [optimizer, optimizer])


class Sharded(torch.Tensor):
    def to_local(self):
        return self


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            lambda: with_buffer(torch.zeros(2).as_subclass(Sharded)),
            "a distributed tensor of a sort",
        ),
        (lambda: with_buffer(torch.eye(2).to_sparse()), "buffer/odd is a sparse tensor"),
        (lambda: with_buffer(torch.zeros(2, device="meta")), "buffer/odd is a tensor without content"),
        (
            lambda: nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2)),
            "parameter/0.weight is a tensor without content",
        ),
    ],
)
def test_a_model_that_is_no_plain_memory_is_refused_before_training(model, words):
    model = model()
    plain = [p for p in model.parameters() if not isinstance(p, nn.UninitializedParameter)]
    with pytest.raises(UnsupportedStateError, match=words):
        Recorder().attach(model, [optim.SGD(plain, lr=0.1)])


def with_buffer(buffer):
    model = nn.Linear(2, 2)
    model.register_buffer("odd", buffer)
    return model


def test_state_that_is_no_plain_value_is_refused():
    model = nn.Linear(2, 2)
    for change, words in (
        (
            lambda o: o.param_groups[0].update(rule=lambda step: step),
            "optimizer/0/group/0/rule is a .*function",
        ),
        (lambda o: o.state[model.weight].update(trace={1, 2}), "optimizer/0/weight/trace is a builtins.set"),
        (
            lambda o: setattr(o, "history", {1}),
            "if 'history' of SGD is no state, begin its name with an underscore",
        ),
        (lambda o: o.state.update({nn.Parameter(torch.zeros(1)): {}}), "none of its parameters"),
    ):
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        change(optimizer)
        with pytest.raises(UnsupportedStateError, match=words):
            Recorder().attach(model, [optimizer])
    with pytest.raises(UnsupportedStateError, match="'average' is a int, which has no state_dict"):
        Recorder(others={"average": 3}).attach(model, [optim.SGD(model.parameters(), lr=0.1)])


def test_a_state_that_can_no_longer_be_recorded_never_ends_training():
    _, optimizer, recorder = trained()
    optimizer.param_groups[0]["rule"] = print
    for step in range(3, 9):
        recorder.take(step)
    assert recorder.summary().steps == (0, 1, 2)
    assert "it is not tried again" in recorder.summary().notes[-1]
    assert not recorder.ready


@pytest.mark.parametrize(
    "value",
    [
        {"a": (1, [2.5, None], {3: "x", "3": True})},
        OrderedDict(a=float("nan"), b=float("-inf"), c=-0.0),
        np.arange(6, dtype=np.uint16).reshape(2, 3),
        np.float64(1.5),
        2**80,
        1 + 2j,
        b"\x00\xff",
        torch.Size([2, 3]),
        torch.float16,
        torch.device("cpu"),
        torch.tensor([True, False]),
        torch.tensor(3, dtype=torch.int16),
        torch.zeros(0, 2, dtype=torch.complex128),
    ],
)
def test_values_come_back_equal(value):
    tensors = NamedTensors()
    back = decode(encode(value, "value", tensors), tensors)
    assert repr(back) == repr(dict(value) if isinstance(value, OrderedDict) else value)


def test_one_tensor_in_two_places_is_one_again():
    shared = torch.zeros(2)
    tensors = NamedTensors()
    tree = encode({"a": shared, "b": [shared], "c": torch.zeros(2)}, "state", tensors)
    back = decode(tree, tensors)
    assert back["a"] is back["b"][0]
    assert back["a"] is not back["c"]
    assert list(tensors) == ["state/a", "state/c"]


def test_what_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(UnsupportedStateError, match="holds itself"):
        encode(value, "value", NamedTensors())


@pytest.mark.parametrize("last", [2, 4, 7])
@pytest.mark.parametrize("size", [1, 30])
def test_a_ring_keeps_to_its_bounds_and_thins_with_age(last, size):
    ring = Ring(last=last, max_bytes=4 * size * 5)
    ring.reach = 2 ** (last - 1)
    for step in range(200):
        assert ring.put(step, {}, {"w": torch.full((size,), float(step))})
        assert ring.bytes <= ring.max_bytes
        assert len(ring.slots) <= min(last, 5)
    steps = [slot.step for slot in ring.slots]
    assert len(steps) == min(last, 5)
    assert steps[-1] == 199
    gaps = [b - a for a, b in pairwise(steps)]
    assert gaps == sorted(gaps, reverse=True)
    assert all(bool((slot.buffers["w"] == slot.step).all()) for slot in ring.slots)


def test_what_is_larger_than_the_ring_is_not_taken_and_said():
    _, _, recorder = trained(recorder=Recorder(every=1, max_bytes=1000))
    summary = recorder.summary()
    assert summary.steps == ()
    assert "max_bytes is 1,000: pass a larger one" in summary.notes[0]
    assert "max_bytes is 1,000" in str(summary)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"last": 1}, "last is 1; it must be 2 or more"),
        ({"every": 0}, "every is 0; it must be 1 or more"),
        ({"keep": float("nan")}, "keep is nan; it must be 1 or more"),
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"share": 1.0}, "share is 1.0; it is a part of the time, between 0 and 1"),
        ({"others": {"scaler": 1}}, "others has 'scaler', a name that is taken"),
    ],
)
def test_options_outside_their_interval_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Recorder(**options)


def test_a_recorder_has_one_training():
    model, optimizer, recorder = trained()
    with pytest.raises(ValueError, match="records a training already"):
        recorder.attach(model, [optimizer])


def test_keys_that_look_alike_are_not_taken_for_each_other():
    tensors = NamedTensors()
    value = {1: torch.ones(2), "1": torch.zeros(2), "2": np.ones(3), 2: np.zeros(3)}
    back = decode(encode(value, "state", tensors), tensors)
    assert torch.equal(back[1], torch.ones(2))
    assert torch.equal(back["1"], torch.zeros(2))
    assert back["2"].sum() == 3
    assert back[2].sum() == 0


def test_a_tensor_as_a_key_is_refused_before_training():
    model = nn.Linear(3, 2)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    optimizer.slow = {model.weight: torch.zeros(2, 3)}
    with pytest.raises(UnsupportedStateError, match=r"a dict with a Parameter as a key, .* use names"):
        Recorder().attach(model, [optimizer])


class Stubborn:
    """Something whose state can be had, and loaded only once in a while."""

    def __init__(self, *, refuses):
        self.refuses, self.value = refuses, 1.0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]
        if self.refuses:
            raise RuntimeError("not now")


def test_what_refuses_its_state_leaves_all_as_it_was():
    first, second = Stubborn(refuses=False), Stubborn(refuses=True)
    others = {"first": first, "second": second}
    model, optimizer, recorder = trained(recorder=Recorder(every=1, others=others))
    first.value = second.value = 2.0
    before = [p.detach().clone() for p in model.parameters()], copy.deepcopy(optimizer.state_dict())
    with pytest.raises(UnsupportedStateError, match=r"the state of 'second' can't be put back: .*not now"):
        recorder.restore(recorder.newest())
    assert (first.value, second.value) == (2.0, 2.0)
    assert all(map(torch.equal, before[0], model.parameters()))
    assert str(optimizer.state_dict()) == str(before[1])
