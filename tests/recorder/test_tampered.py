"""A snapshot that a person changed, checksums and all, is refused in words and harms nothing."""

import copy
import hashlib
import json
import os

import pytest
import torch
from torch import nn, optim

from foreshock.recorder import Recorder, UnsupportedStateError, list_snapshots, load_snapshot, write_snapshot
from foreshock.recorder.snapshot import Snapshot


def made():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    return model, optim.Adam(model.parameters(), lr=0.1)


@pytest.fixture
def written(tmp_path):
    model, optimizer = made()
    recorder = Recorder(every=1)
    recorder.attach(model, [optimizer])
    for step in range(3):
        optimizer.zero_grad()
        model(torch.ones(5, 3)).square().mean().backward()
        recorder.take(step, loss=1.0)
        optimizer.step()
    return write_snapshot(recorder.newest(), tmp_path / "snapshots")


def sign(folder):
    """Write the checksums of what is there."""
    files = {
        one: {
            "bytes": (folder / one).stat().st_size,
            "sha256": hashlib.sha256((folder / one).read_bytes()).hexdigest(),
        }
        for one in ("tensors.safetensors", "state.json")
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "step": 2, "rank": 0, "files": files}))


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


def set_at(*places, value):
    def change(state):
        for place in places[:-1]:
            state = state[place]
        state[places[-1]] = value

    return change


ADAM = ("tree", "optimizers", 0)
HARMS = {
    "a shape without content": (
        set_at("types", "empty", value={"dtype": "float64", "shape": [10**12]}),
        "empty",
    ),
    "deep nesting": (set_at("tree", "others", value={"a": nested(400)}), "nests more than 200 deep"),
    "no optimizers": (lambda state: state["tree"].pop("optimizers"), "KeyError: 'optimizers'"),
    "a model that is a list": (set_at("tree", "model", value=[]), "damaged: TypeError"),
    "a step that is text": (set_at("step", value="7"), "'step' is '7'"),
    "state of no parameter": (set_at(*ADAM, "state", 0, 0, value="9.weight"), "state is '9.weight'"),
    "a tensor that is not there": (set_at(*ADAM, "state", 0, 2, value={"$tensor": "x"}), "is damaged"),
    "parameters as an option": (
        set_at(*ADAM, "groups", 0, "options", "$dict", 0, 0, value="params"),
        "params",
    ),
    "the class of the optimizer": (set_at(*ADAM, "attributes", value=[["__class__", 1]]), "__class__"),
    "a counter that is text": (
        set_at("tree", "model", "numbers", value={"0": {"$dict": [["in_features", "a"]]}}),
        "counter 'in_features'",
    ),
    "a stage of a scaler": (
        set_at("tree", "scaling", value={"$dict": [["0", {"$tuple": ["x", {"$dict": []}]}]]}),
        "scaling is 'x'",
    ),
    "a type that is a function": (
        set_at("tree", "others", value={"a": {"$dtype": "torch.load"}}),
        "which is damaged",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_state_that_no_recorder_wrote_is_refused(written, tmp_path, harm):
    change, words = HARMS[harm]
    if harm.startswith("a shape"):
        tensors = {"empty": torch.zeros(0, dtype=torch.complex64)}
        written = write_snapshot(Snapshot(3, tensors, {}), tmp_path / "snapshots")
        words = "has no content"
    state = json.loads((written / "state.json").read_text())
    change(state)
    (written / "state.json").write_text(json.dumps(state))
    sign(written)
    with pytest.raises(UnsupportedStateError, match=words) as caught:
        load_snapshot(written)
    assert str(written) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_random_numbers_that_no_generator_takes_are_refused_before_anything_is_changed(written):
    state = json.loads((written / "state.json").read_text())
    state["tree"]["random"] = {"$dict": []}
    (written / "state.json").write_text(json.dumps(state))
    sign(written)
    model, optimizer = made()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedStateError, match="random numbers are damaged: KeyError: 'torch'"):
        load_snapshot(written).restore(model, optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not optimizer.state


def test_a_gradient_of_another_shape_is_refused_before_anything_is_changed(written):
    snapshot = load_snapshot(written)
    snapshot.tensors["gradient/1.bias"] = torch.zeros(7)
    model, optimizer = made()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        UnsupportedStateError, match=r"the gradient of 1.bias in the snapshot is .* of \(7,\)"
    ):
        snapshot.restore(model, optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_files_that_never_end_are_not_read(written):
    manifest = json.loads((written / "manifest.json").read_text())
    manifest["files"] = {"/dev/zero": {"bytes": 0, "sha256": ""}, **manifest["files"]}
    (written / "manifest.json").write_text(json.dumps(manifest))
    assert load_snapshot(written).step == 2  # only the two files of a snapshot are looked at
    (written / "tensors.safetensors").unlink()
    os.mkfifo(written / "tensors.safetensors")
    with pytest.raises(UnsupportedStateError, match=r"tensors.safetensors is not what was written"):
        load_snapshot(written)
    (written / "manifest.json").unlink()
    os.mkfifo(written / "manifest.json")
    assert list_snapshots(written.parent.parent) == ()


def test_tensors_that_are_none_are_refused(written):
    (written / "tensors.safetensors").write_bytes(b"\xff" * 100)
    sign(written)
    with pytest.raises(UnsupportedStateError, match=r"damaged: ValueError: tensors.safetensors: "):
        load_snapshot(written)
