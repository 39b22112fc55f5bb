"""The labelled set with recovery: a run that overflowed once comes back, and what counts as back."""

import json

import pytest

from foreshock.lab.causes.rewinding import came_back_by_itself, outcome, record_recovery, tally

RESULT = {
    "cause": "bad batch",
    "twins": [1.0, 1.1],
    "failed": None,
    "said": "",
    "lost_steps": 20,
    "measures": [],
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"recovered": 1.12}, "back"),
        ({"recovered": 1.13}, "neither"),
        ({"recovered": 0.2}, "back"),
        ({"recovered": None, "said": "it can't"}, "said before"),
        ({"recovered": 1.13, "said": "it can't", "measures": ["rewind: stop"]}, "said before"),
        ({"recovered": 1.13, "said": "it can't", "measures": ["rewind: skip", "rewind: stop"]}, "said after"),
        ({"recovered": 1.0, "said": "it can't"}, "back"),
    ],
)
def test_back_is_at_most_two_percent_above_the_higher_twin(changes, expected):
    assert outcome(RESULT | changes) == expected


def test_a_run_that_is_left_alone_may_come_back_too():
    assert not came_back_by_itself(RESULT)
    assert came_back_by_itself(RESULT | {"failed": 1.0})
    rows = tally([RESULT | {"recovered": 1.0, "failed": 1.0}, RESULT | {"recovered": 2.0}])
    assert rows == [[name, "2", "1", "0", "0", "1", "1", "20"] for name in ("bad batch", "all")]


# An overflow happens in any arithmetic.
def test_a_gradient_that_overflows_once_is_recovered_from(tmp_path):
    path = record_recovery("gradient overflow", 1, 0, tmp_path / "spikes", tmp_path / "results")
    result = json.loads(path.read_text())
    assert result["failed"] is None
    assert result["recovered"] is not None
    assert result["measures"] == ["rewind: skip"]
    assert 0 < result["lost_steps"] < 40
