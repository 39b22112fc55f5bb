"""Trainings on several processes, and results as files."""

import math
from pathlib import Path

import pytest

from foreshock.lab.jobs import finished, rounded, write_json


def touch(folder: str, name: str) -> Path:
    if name == "bad":
        raise OSError("no such luck")
    path = Path(folder) / name
    path.touch()
    return path


def test_one_process_calls_in_order(tmp_path):
    made = finished(touch, [(tmp_path, "a"), (tmp_path, "b")])
    assert [path.name for path in made] == ["a", "b"]


def test_at_least_one_process():
    with pytest.raises(ValueError, match="jobs is 0; at least one process is needed"):
        list(finished(touch, [], jobs=0))


@pytest.mark.slow
def test_what_others_write_is_not_lost_when_a_call_fails(tmp_path):
    calls = [(str(tmp_path), name) for name in ("a", "b", "c")]
    made = finished(Path.joinpath, [(tmp_path, 1), *[(tmp_path, name) for _, name in calls]], jobs=2)
    names = []
    with pytest.raises(TypeError):
        names.extend(path.name for path in made)
    assert set(names) <= {"a", "b", "c"}


def test_floats_are_rounded_wherever_they_are():
    assert rounded({"a": [1.23456, {"b": (2.34567e-9, 3)}]}) == {"a": [1.235, {"b": [2.346e-9, 3]}]}


def test_a_file_that_can_not_be_written_whole_is_left_as_it_was(tmp_path):
    path = write_json({"a": 1.0}, tmp_path / "new" / "x.json")
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"a": math.inf}, path)
    assert path.read_text() == before
