"""What was before an event is said only where the log has it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.dynamics import AdamSettings, Quadratic, simulate
from foreshock.explain import compare_runs, explain_run, explanation_text
from foreshock.runlog import RunLogWriter, read_run
from logs_of_explain import NAN, calm, write


def rows(folder, losses, *, first=0, every=1):
    log = RunLogWriter(folder)
    for i, loss in enumerate(losses):
        step = first + every * i
        log.write("step", {"step": step, "loss": loss, "gradient_norm": 1.0, "learning_rate": 1e-3})
    log.close()
    return read_run(folder)


def test_a_loss_that_is_nan_from_the_first_step_on_was_never_normal(tmp_path):
    [found] = explain_run(rows(tmp_path, [NAN] * 40))
    text = explanation_text(found)
    assert found.cause == "forward overflow"
    assert "the loss was NaN at step 0, the first of the log." in text
    assert "step before" not in text
    assert "checkpoint from before" not in text
    assert "no good step to go back to" in text
    assert found.causes[0].facts == ()


def test_of_a_log_that_begins_with_nan_nothing_is_said_of_before(tmp_path):
    [found] = explain_run(rows(tmp_path, [NAN] * 40, first=1000))
    assert found.causes == ()
    assert any("begins with it, at step 1,000" in one for one in found.missing)


def test_between_rows_that_are_ten_steps_apart_a_loss_may_have_grown(tmp_path):
    losses = [*calm(60).tolist(), NAN, NAN]
    [found] = explain_run(rows(tmp_path / "sparse", losses, every=10))
    assert found.causes == ()
    assert any("every 10th step" in one for one in found.missing)
    [dense] = explain_run(rows(tmp_path / "dense", losses))
    assert dense.cause == "forward overflow"
    assert f"NaN at step 60, and {losses[59]:.3g} at step 59" in dense.causes[0].words


def test_a_loss_that_was_never_finite_before_has_no_trend(tmp_path):
    [found] = explain_run(rows(tmp_path, [math.inf, *[1.0] * 60]))
    assert "NaN" not in found.recovery.words
    assert "none before to compare with" in found.recovery.words


def test_runs_that_differ_at_their_first_step_are_not_compared_before_it(tmp_path):
    nan, quiet = (
        rows(tmp_path / "nan", [NAN] * 40),
        write(tmp_path / "quiet", loss=calm(), learning_rate=1e-5),
    )
    findings = compare_runs([nan, quiet]).findings
    assert "At step 0 the learning rate was 0.001 there, 1e-5 in the others." in findings
    assert not any("Before" in one for one in findings)


@pytest.mark.parametrize("stride", [1, 5])
@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_on_a_quadratic_there_is_no_cause_but_lag(beta1, stride, tmp_path):
    """½θ² never changes and has no data: every rise of the ratio is made by v, whatever rows the log has."""
    starts, steps = (1.0, 0.5, 2.0), 2500
    named = []
    for start in starts:
        settings = AdamSettings(0.15, beta1=[beta1], beta2=[0.99])
        runs = simulate(Quadratic(1.0, start=start), settings, steps=steps, dtype=np.longdouble)
        v = runs.second_moment[:, 0] / (1 - np.longdouble(0.99) ** np.arange(1, steps + 1))
        log = RunLogWriter(tmp_path / f"{start}")
        for step in range(0, steps, stride):
            squared = runs.squared_gradient[step, 0]
            values = {"loss": runs.loss[step, 0], "gradient_norm": np.sqrt(squared), "second_moment": v[step]}
            values |= {"instant_lag": v[step] / squared, "learning_rate": 0.15}
            log.write("step", {"step": step} | {name: float(value) for name, value in values.items()})
            ratio = float(runs.stability_ratio[step, 0])
            log.write("curvature", {"step": step, "stability_ratio": ratio, "error_bound": 0.0})
        log.close()
        named += [one.named for one in explain_run(read_run(tmp_path / f"{start}"))]
    assert len(named) >= 6
    assert set(named) <= {"preconditioner lag", "not explained"}
    assert named.count("preconditioner lag") >= 0.9 * len(named)
