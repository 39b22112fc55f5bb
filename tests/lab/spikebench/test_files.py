"""JSON that is small and whole."""

import math

import pytest

from foreshock.lab.spikebench.files import rounded, write_json


def test_floats_are_rounded_wherever_they_are():
    assert rounded({"a": [1.23456, {"b": (2.34567e-9, 3)}]}) == {"a": [1.235, {"b": [2.346e-9, 3]}]}


def test_a_file_that_can_not_be_written_whole_is_left_as_it_was(tmp_path):
    path = write_json({"a": 1.0}, tmp_path / "new" / "x.json")
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"a": math.inf}, path)
    assert path.read_text() == before
