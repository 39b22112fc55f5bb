"""Small tensors are measured together, with the numbers that they would give one by one."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import displacement, guard
from foreshock.guarding import parameters as module
from foreshock.guarding.parameters import bundle, read_slots
from guarding.training import ADAMS, Script, asked, data, network, train, weights


def slots_of(*sizes, dtypes=(torch.float32,), groups=1):
    parameters = [nn.Parameter(torch.zeros(size, dtype=dtype)) for size in sizes for dtype in dtypes]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    each = [{"params": parameters[start::groups]} for start in range(groups)]
    return read_slots(optim.Adam(each))


def sizes_of(slots, **options):
    return [[slot.parameter.numel() for slot in members] for members in bundle(slots, **options)]


def test_large_tensors_are_alone_and_a_bundle_has_an_end(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 10)
    monkeypatch.setattr(module, "LARGEST", 20)
    assert sizes_of(slots_of(4, 11, 6, 10, 1, 2)) == [[4, 6, 10], [11], [1, 2]]


def test_types_groups_and_numbers_of_updates_are_kept_apart():
    assert sizes_of(slots_of(2, 3, dtypes=(torch.float32, torch.float64))) == [[2, 3], [2, 3]]
    assert sizes_of(slots_of(2, 3, 4, groups=2)) == [[2, 4], [3]]
    slots = slots_of(2, 3)
    assert sizes_of([slots[0], slots[1]._replace(updates=7)]) == [[2], [3]]


@pytest.mark.parametrize("name", [*ADAMS, "channels-last"])
@pytest.mark.parametrize("decisions", [{}, {9: asked("raise along", 1.5)}], ids=["idle", "acting"])
def test_the_secant_and_a_raise_are_those_of_tensors_one_by_one(name, decisions, monkeypatch):
    seen, ends = [], []
    for small in (module.SMALL, 0):
        monkeypatch.setattr(module, "SMALL", small)
        script = Script(decisions)
        script.exact_above = math.inf  # the bound is what is returned
        if name == "channels-last":
            torch.manual_seed(0)
            model = nn.Sequential(nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 4, 3, padding=1), nn.Flatten())
            model = nn.Sequential(*model, nn.Linear(4, 2)).to(memory_format=torch.channels_last)
            assert not model[1].weight.is_contiguous()
            optimizer = optim.AdamW(model.parameters(), lr=0.01)
        else:
            model = network()
            optimizer = ADAMS[name](model.parameters())
        watched = guard(optimizer, script)
        train(model, optimizer, data(), 12)
        assert len(watched.buffers()) == (1 if small else len(list(model.parameters())))
        seen.append([one.secant for one in script.seen])
        ends.append(weights(model))
        assert watched.summary().notes == ()
    assert all(map(math.isfinite, seen[0]))
    assert seen[0] == pytest.approx(seen[1], rel=1e-4 if name != "adamw" else 2e-2)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)


def test_on_an_accelerator_large_tensors_are_put_together_too():
    """Starting an operation takes longer there than its work on a million coordinates."""
    sizes = (2**20, 2**24, 5, 2**24 + 1, 2**24)
    slots = [
        slot._replace(parameter=torch.empty(size, device="meta"), gradient=torch.empty(size, device="meta"))
        for slot, size in zip(slots_of(*[1] * len(sizes)), sizes, strict=True)
    ]
    assert sizes_of(slots) == [[2**20, 2**24, 5], [2**24 + 1], [2**24]]


def test_the_buffer_of_a_large_bundle_is_used_again(monkeypatch):
    """With the same secants, bit by bit."""
    seen = []
    for largest in (module.LARGEST, 0):
        monkeypatch.setattr(displacement, "LARGEST", largest)
        model, script = network(), Script()
        watched = guard(optim.Adam(model.parameters(), lr=0.01), script)
        places = []
        for _ in range(6):
            train(model, watched.optimizer, data(), 1)
            places.append([buffer.data_ptr() for buffer in watched.buffers()])
        assert len(places[-1]) == 1
        assert largest or len({tuple(place) for place in places[1:]}) == 1
        seen.append([one.secant for one in script.seen])
    assert seen[0] == seen[1]
    assert all(map(math.isfinite, seen[0]))


def test_a_resumed_guard_goes_on_with_the_same_displacement():
    secants = []
    for resumed in (False, True):
        model, script = network(), Script()
        watched = guard(optim.Adam(model.parameters(), lr=0.01), script)
        train(model, watched.optimizer, data(), 6)
        if resumed:
            state, moments = watched.state_dict(), watched.optimizer.state_dict()
            watched.detach()
            watched = guard(optim.Adam(model.parameters(), lr=0.01), script)
            watched.load_state_dict(state)
            watched.optimizer.load_state_dict(moments)
        train(model, watched.optimizer, data(), 3)
        secants.append([one.secant for one in script.seen])
    assert secants[0] == secants[1]
    assert all(map(math.isfinite, secants[0]))


def test_of_a_state_of_other_shapes_the_displacement_is_dropped(caplog):
    trained = network()
    watched = guard(optim.Adam(trained.parameters()), Script())
    train(trained, watched.optimizer, data(), 3)
    wider = torch.nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2))
    other = guard(optim.Adam(wider.parameters()), Script())
    other.load_state_dict(watched.state_dict())
    [note] = other.summary().notes
    assert note.endswith("was dropped: it has 50 coordinates where this optimizer has 56")
    assert note in caplog.text
    train(wider, other.optimizer, data(), 3)
    assert [math.isnan(one.secant) for one in other.policy.seen] == [False, False]


def test_a_state_that_went_through_a_file_is_taken_back(tmp_path):
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script())
    train(model, watched.optimizer, data(), 3)
    torch.save(watched.state_dict(), tmp_path / "guard.pt")
    watched.load_state_dict(torch.load(tmp_path / "guard.pt", weights_only=True))
    other = guard(optim.Adam([nn.Parameter(torch.zeros(1))]), Script())
    other.load_state_dict(watched.state_dict())
    assert other.summary().notes[0].endswith("is of an optimizer with 4 parameters, this one has 1")


def test_parameters_may_be_taken_out_of_the_optimizer():
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script())
    first, *others = model.parameters()
    train(model, watched.optimizer, data(), 6)
    first.requires_grad_(False)
    first.grad = None
    train(model, watched.optimizer, data(), 3)
    assert len(watched.state_dict()["engine"]["measurer"]["displacement"]["alone"]) == 1
    watched.optimizer.param_groups[0]["params"] = others
    assert watched.state_dict()["engine"]["measurer"]["displacement"]["alone"] == []
    gone = weakref.ref(first)
    del watched.optimizer.state[first], first
    model[0] = nn.Linear(3, 8)
    train(model, watched.optimizer, data(), 3)
    gc.collect()
    assert gone() is None


def test_a_checkpoint_between_the_removal_of_a_parameter_and_the_next_step():
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script())
    train(model, watched.optimizer, data(), 6)
    watched.optimizer.param_groups[0]["params"] = list(model.parameters())[1:]
    assert watched.state_dict()["engine"]["measurer"]["displacement"] == {
        "parameters": 3,
        "moved": [],
        "alone": [],
    }


def test_of_bundles_that_have_changed_the_old_buffers_go_first(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 30)
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script())
    train(model, watched.optimizer, data(), 3)
    old = [weakref.ref(buffer) for buffer in watched.buffers()]
    alive = {}
    real = module.flat

    def concatenate(*args, **options):
        left = sum(buffer() is not None for buffer in old)
        made = real(*args, **options)
        alive[made.data_ptr()] = left
        return made

    monkeypatch.setattr("foreshock.guarding.displacement.flat", concatenate)
    model[0].bias.requires_grad_(False)
    model[0].bias.grad = None
    train(model, watched.optimizer, data(), 1)
    assert [buffer.numel() for buffer in watched.buffers()] == [24, 18]
    assert alive[watched.buffers()[1].data_ptr()] == 1


@pytest.mark.parametrize("small", [module.SMALL, 0], ids=["together", "one by one"])
def test_parameters_that_get_another_shape_or_type_get_another_buffer(small, monkeypatch):
    """A new parameter may have the address of one that is gone; here it is the same with other data."""
    monkeypatch.setattr(module, "SMALL", small)
    parameters = [nn.Parameter(torch.ones(size)) for size in (3, 4)]
    optimizer = optim.Adam(parameters, lr=0.1)
    watched = guard(optimizer, Script())
    for values in (torch.ones(3), torch.ones(5), torch.ones(5, dtype=torch.float64)):
        parameters[0].grad = None
        parameters[0].data = values
        optimizer.state.clear()
        for _ in range(4):
            for parameter in parameters:
                parameter.grad = 2 * parameter.detach()
            optimizer.step()
        assert sum(buffer.numel() for buffer in watched.buffers()) == 4 + len(values)
        assert {buffer.dtype for buffer in watched.buffers()} == {values.dtype, torch.float32}
        assert math.isfinite(watched.policy.seen[-1].secant)
    assert watched.summary().notes == ()
