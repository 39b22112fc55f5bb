"""Failures that end no training run: noted once a cause, given up after some in a row."""

from __future__ import annotations

import logging

import pytest

from foreshock.failures import Failures


def test_a_failure_is_noted_once_and_a_success_ends_a_row():
    failures = Failures("guard", allowed=2)
    for _ in range(3):
        failures.failed("it failed", ValueError("so"))
        assert not failures.given_up
        failures.succeeded()
    assert failures.notes == ("it failed: ValueError: so",)
    failures.failed("it failed", ValueError("so"))
    failures.failed("it failed", ValueError("so"))
    assert failures.given_up


def test_giving_up_is_noted_whatever_failed_before(caplog):
    failures = Failures("guard")
    for step in range(5):
        failures.failed(f"it failed at step {step}", ValueError("reason " + "abcde"[step]))
        failures.succeeded()
    assert len(failures.notes) == 3
    for step in range(5, 8):
        failures.failed(f"it failed at step {step}", ValueError("so"))
    assert failures.notes[3:] == (
        "it failed at step 7: ValueError: so (3 failures in a row: it is not tried again)",
    )
    assert failures.notes[3] in caplog.text


def test_the_same_failure_at_another_step_is_noted_once():
    failures = Failures("guard")
    for step in (7, 19, 300):
        failures.failed(f"it failed at step {step}", ValueError("so"))
        failures.succeeded()
    failures.failed("it failed after step 301", ValueError("so"))
    assert failures.notes == (
        "it failed at step 7: ValueError: so",
        "it failed after step 301: ValueError: so",
    )


def test_the_log_names_who_failed(caplog):
    with caplog.at_level(logging.WARNING, logger="foreshock"):
        Failures("monitor").note("a batch has no tensors")
    assert caplog.messages == ["monitor: a batch has no tensors"]


@pytest.mark.parametrize("allowed", [0, -1, float("nan")])
def test_giving_up_takes_a_failure(allowed):
    with pytest.raises(ValueError, match="takes at least one failure"):
        Failures("guard", allowed=allowed)
