"""On disk a snapshot is whole or not there, and what is damaged is refused."""

import dataclasses
import errno
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import torch as safetensors

from foreshock.recorder import (
    Recorder,
    UnsupportedStateError,
    files,
    list_snapshots,
    load_snapshot,
    write_snapshot,
)
from recorder.trainings import Case, Loop, cnn


@pytest.fixture
def snapshot():
    return Loop(Case(cnn), recorder={"every": 1}).train(0, 3).recorder.newest()


def test_a_snapshot_is_read_as_it_was_written(snapshot, tmp_path):
    path = write_snapshot(snapshot, tmp_path, reason="a test", rank=3)
    read = load_snapshot(path)
    assert (read.step, read.path, read.about["reason"], read.about["rank"]) == (3, path, "a test", 3)
    assert read.tensors.keys() == snapshot.tensors.keys()
    for name, tensor in read.tensors.items():
        assert tensor.dtype == snapshot.tensors[name].dtype
        assert torch.equal(tensor, snapshot.tensors[name])
    assert json.dumps(read.tree) == json.dumps(snapshot.tree)
    assert sorted(one.name for one in path.iterdir()) == [
        "manifest.json",
        "state.json",
        "tensors.safetensors",
    ]


def test_any_reader_of_safetensors_finds_the_weights(snapshot, tmp_path):
    stored = safetensors.load_file(write_snapshot(snapshot, tmp_path) / "tensors.safetensors")
    assert torch.equal(stored["parameter/1.weight"], snapshot.tensors["parameter/1.weight"])
    assert "optimizer/0/1.weight/exp_avg_sq" in stored


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["a bit", "torn", "gone", "empty"])
def test_what_is_damaged_is_refused_and_the_one_before_taken(snapshot, tmp_path, name, harm):
    older = write_snapshot(snapshot, tmp_path / "snapshots")
    newer = tmp_path / "snapshots/rank0-step00000009"
    shutil.copytree(older, newer)
    content = bytearray((newer / name).read_bytes())
    content[len(content) // 2] ^= 4
    (newer / name).write_bytes({"a bit": content, "torn": content[: len(content) // 2]}.get(harm, b""))
    if harm == "gone":
        (newer / name).unlink()
    assert load_snapshot(tmp_path).path == older
    with pytest.raises((UnsupportedStateError, FileNotFoundError), match=r"damaged|format|no whole snapshot"):
        load_snapshot(newer)


def test_a_rank_without_a_snapshot_is_told_how_many_wrote_theirs(snapshot, tmp_path):
    for rank in (0, 1):
        write_snapshot(snapshot, tmp_path / "snapshots", rank=rank)
    with pytest.raises(
        FileNotFoundError, match=r"of rank 2, but of 0, 1: .* as many processes .*Checkpointed"
    ):
        load_snapshot(tmp_path, rank=2)


def test_a_manifest_of_another_format_is_refused(snapshot, tmp_path):
    path = write_snapshot(snapshot, tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UnsupportedStateError, match="has format 99, and this version reads 1"):
        load_snapshot(path)


@pytest.mark.parametrize("place", ["tensors", "state", "manifest", "flush", "move"])
def test_a_full_disk_leaves_the_previous_snapshot_and_nothing_of_the_new_one(
    snapshot, tmp_path, monkeypatch, place
):
    older = write_snapshot(snapshot, tmp_path / "snapshots")
    full = OSError(errno.ENOSPC, "No space left on device")

    def fails(*args, **kwargs):
        raise full

    def save_file(tensors, path):
        path.write_bytes(b"half of it")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    dump = files._dump
    at = {"state": "state.json", "manifest": "manifest.json"}
    if place == "tensors":
        safetensors.SafetensorError = __import__("safetensors").SafetensorError
        monkeypatch.setattr(safetensors, "save_file", save_file)
    elif place in at:
        monkeypatch.setattr(files, "_dump", lambda v, p: fails() if p.name == at[place] else dump(v, p))
    elif place == "flush":
        monkeypatch.setattr(files, "_flush", fails)
    else:
        monkeypatch.setattr(type(tmp_path), "rename", fails)
    with pytest.raises(OSError, match="No space left"):
        write_snapshot(snapshot, tmp_path / "snapshots")
    monkeypatch.undo()
    assert [one.name for one in (tmp_path / "snapshots").iterdir()] == [older.name]
    assert load_snapshot(tmp_path).path == older


def test_a_failure_to_write_is_said_once_and_training_goes_on(tmp_path, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_dump", fails)
    loop = Loop(Case(cnn), recorder={"every": 1}, run=tmp_path).train(0, 9)
    for step in (3, 5, 7, 9):
        assert loop.recorder.write(tmp_path, reason="a test", before=step)
        loop.recorder._writer.wait(120)
    loop.train(10, 40)
    loop.monitor.close()
    reference = Loop(Case(cnn)).train(0, 40)
    assert loop.bits() == reference.bits()
    assert list((tmp_path / "snapshots").iterdir()) == []
    notes = loop.recorder.summary().notes
    assert len(notes) == 2
    assert "No space left" in notes[0]
    assert "it is not tried again" in notes[1]
    assert "snapshot failed" in caplog.text


def test_older_snapshots_go_once_newer_ones_are_there(tmp_path):
    loop = Loop(Case(cnn), recorder={"every": 1, "keep": 2})
    for step in range(5):
        loop.train(step, step)
        loop.recorder.write(tmp_path, reason="a test")
        loop.recorder._writer.wait(120)
    assert [path.name for path in list_snapshots(tmp_path)] == ["rank0-step00000003", "rank0-step00000004"]
    assert load_snapshot(tmp_path).step == 4
    assert load_snapshot(tmp_path, before=4).step == 3
    with pytest.raises(FileNotFoundError, match="no whole snapshot from before step 3"):
        load_snapshot(tmp_path, before=3)


def test_a_run_that_begins_again_in_its_folder_keeps_its_own_snapshots(snapshot, tmp_path):
    for step in (100, 200):
        write_snapshot(dataclasses.replace(snapshot, step=step), tmp_path / "snapshots")
    loop = Loop(Case(cnn), recorder={"every": 1, "keep": 2})
    for step in range(2):
        loop.train(step, step)
        loop.recorder.write(tmp_path, reason="a test")
        loop.recorder._writer.wait(120)
    assert [path.name for path in list_snapshots(tmp_path)] == ["rank0-step00000000", "rank0-step00000001"]


LEFT = """
import torch
from pathlib import Path
from foreshock.recorder import Recorder, writing
inner = writing.write_snapshot
def slowly(*given, **options):
    import time
    time.sleep(0.5)
    return inner(*given, **options)
writing.write_snapshot = slowly
model = torch.nn.Linear(2, 1)
kept = Recorder()
kept.attach(model, [torch.optim.Adam(model.parameters())])
kept.take(7)
if FORK:
    kept.write(Path("before"), reason="a test")
    import os
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    kept._ring.slots[-1].in_use = 0
kept.write(Path("run"), reason="a test")
raise SystemExit
"""


@pytest.mark.parametrize("fork", [False, True])
def test_what_is_being_written_when_a_script_ends_is_whole(tmp_path, fork):
    script = LEFT.replace("FORK", str(fork))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0
    assert [path.name for path in list_snapshots(tmp_path / "run")] == ["rank0-step00000007"]


FORKED = """
import os, signal, tempfile, torch
from pathlib import Path
from foreshock.recorder import Recorder
for _ in range(60):
    folder, model, kept = Path(tempfile.mkdtemp(dir=".")), torch.nn.Linear(2, 1), Recorder()
    kept.attach(model, [torch.optim.Adam(model.parameters())])
    kept.take(7)
    kept.write(folder / "before", reason="a test")  # its thread may hold a lock at the fork
    child = os.fork()
    if not child:
        signal.alarm(90)
        kept._ring.slots[-1].in_use = 0
        kept.write(folder / "after", reason="a test")
        kept.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    kept.close()
"""


def test_a_forked_process_waits_for_no_lock_of_its_parent(tmp_path):
    subprocess.run([sys.executable, "-c", FORKED], cwd=tmp_path, timeout=240, check=True)


def test_the_same_step_twice_is_two_snapshots_of_which_the_later_is_read(snapshot, tmp_path):
    first = write_snapshot(snapshot, tmp_path / "snapshots", reason="first")
    second = write_snapshot(snapshot, tmp_path / "snapshots", reason="second")
    assert list_snapshots(tmp_path) == (first, second)
    assert load_snapshot(tmp_path).about["reason"] == "second"


def test_without_safetensors_the_remedy_is_named(snapshot, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(ImportError, match=r'pip install "foreshock\[recorder\]"'):
        write_snapshot(snapshot, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_not_overwritten_meanwhile(tmp_path, monkeypatch):
    recorder = Recorder(last=2, every=1)
    model = torch.nn.Linear(1, 1)
    recorder.attach(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
    recorder.take(0)
    before = model.weight.detach().clone()
    seen = []
    write = files.write_snapshot

    def slowly(snapshot, folder, **options):
        for step in range(1, 9):
            torch.nn.init.constant_(model.weight, step)
            recorder.take(step)
        seen.append(snapshot.step)
        return write(snapshot, folder, **options)

    monkeypatch.setattr("foreshock.recorder.writing.write_snapshot", slowly)
    recorder.write(tmp_path, reason="a test")
    recorder._writer.wait(120)
    assert seen == [0]
    assert torch.equal(load_snapshot(tmp_path).tensors["parameter/weight"], before)
    assert recorder.newest().step == 8
