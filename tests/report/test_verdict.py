"""The verdict: what happened, why, what to do."""

from __future__ import annotations

import dataclasses
import math

import pytest

from foreshock.explain import CAUSES, advise
from foreshock.report.readings import Coverage
from foreshock.report.summary import RunEvent
from foreshock.report.verdict import lines, verdict
from foreshock.spikes import Episode, detect_events
from summaries import NO_PROBES, calm, changed, explained, of, only, outcome, spike

SHARES = "in alarm for 13 % of the steps, state unknown for under 1 %"


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        (
            changed(),
            f"3 spikes (up to 12,345×); 2 of 3 announced, median 32.5 steps ahead; 2 false alarms; {SHARES}",
        ),
        (only(), f"No spikes in 2,000 steps; 2 false alarms; {SHARES}"),
        (
            calm(answered=(Episode(5, 9, True, 1.1),)),
            f"No spikes in 2,000 steps; 0 false alarms; 1 alarm answered by the guard; {SHARES}",
        ),
        (only(outcome(400, 9.0)), f"1 spike (9.0×); not announced; 2 false alarms; {SHARES}"),
        (
            only(outcome(400, 9.0, announced=399)),
            f"1 spike (9.0×); announced, 1 step ahead; 2 false alarms; {SHARES}",
        ),
        (
            only(outcome(400, 9.0, announced=400)),
            f"1 spike (9.0×); announced at its onset; 2 false alarms; {SHARES}",
        ),
        (
            only(outcome(400, 1.1), outcome(700, 1.13), forecasts=0),
            "2 small spikes (up to 1.13×); no forecasts were made, so nothing was announced",
        ),
        (changed(steps=0), "No losses were recorded"),
        (
            changed(forecasts=0, probes=NO_PROBES),
            "3 spikes (up to 12,345×); no curvature was measured, so nothing was announced",
        ),
        (
            changed(forecasts=0, probes=dataclasses.replace(NO_PROBES, failed=3)),
            "3 spikes (up to 12,345×); no curvature was measured (3 probes failed), so nothing was announced",
        ),
    ],
)
def test_what_happened_is_one_sentence_with_what_it_cost(summary, sentence):
    assert verdict(summary).happened == sentence
    assert str(verdict(summary)) == sentence


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (
            [2.0] * 60 + [math.nan] * 300,
            "The loss was NaN or infinite from step 60 on; no spikes besides; not",
        ),
        ([2.0] * 100 + [math.inf] + [2.0] * 99, "The loss was NaN or infinite at step 100; "),
        (
            [2.0] * 300 + [3.2] * 300,
            "The loss rose from 2 to 3.2 at step 300 and did not come back; no spikes",
        ),
    ],
)
def test_the_verdict_begins_with_what_went_wrong(losses, words):
    events = detect_events(range(len(losses)), losses)
    summary = only(*map(of, events), last_step=len(losses) - 1)
    assert verdict(summary).happened.startswith(words)


def test_a_slow_climb_went_wrong_too():
    climb = dataclasses.replace(spike(300, 4.0), kind="climb", end=900)
    found = verdict(calm(climbs=(climb,), explanations=(explained(climb, outcome="not known yet"),)))
    assert found.happened.startswith("The loss climbed from 1 to 4 between steps 300 and 900; no spikes")
    assert found.why[0].startswith("Step 300: not explained")
    assert "lower learning rate from before step 300" in found.advice[0]


def test_of_many_failures_the_first_three_are_described():
    losses = ([2.0] * 100 + [math.nan]) * 5 + [2.0] * 50
    failures = detect_events(range(len(losses)), losses)
    assert len(failures) == 5
    words = verdict(only(*map(of, failures))).happened
    assert words.count("NaN") == 3
    assert "and 2 more such events; no spikes besides" in words


def test_causes_are_said_with_their_steps_and_numbers_the_frequent_first():
    outcomes = tuple(outcome(step, 9.0) for step in (400, 800, 1200, 1600, 1900))
    one, two, three, four, five = (one.spike for one in outcomes)
    lag = ("preconditioner lag", "v decayed")
    found = (
        explained(one),
        explained(two, lag),
        explained(three),
        explained(four, lag),
        explained(five, "bad batch", "landscape"),
    )
    assert verdict(only(*outcomes, explanations=found)).why == (
        "Steps 800 and 1,600, by the numbers of the first: preconditioner lag (80 % sure): v decayed.",
        "Step 1,900: bad batch (80 % sure): w; landscape (80 % sure): w.",
        "Steps 400 and 1,200: not explained: none of the tests for a known cause holds.",
    )


def test_where_the_cause_is_not_known_it_is_said_what_all_of_them_lack():
    outcomes = tuple(outcome(step, 9.0) for step in (400, 800))
    lacking = (("No curvature.", "No ids."), ("No curvature.",))
    found = tuple(explained(o.spike, missing=m) for o, m in zip(outcomes, lacking, strict=True))
    assert verdict(only(*outcomes, explanations=found)).why[0].endswith("cause holds. No curvature.")


@pytest.mark.parametrize("cause", CAUSES)
def test_a_report_advises_what_the_explanation_of_the_event_does(cause):
    one = outcome(400, 9.0)
    found = explained(one.spike, cause)
    assert verdict(only(one, explanations=(found,))).advice == advise([found])
    assert len(advise([found])) == 2


def test_the_step_of_the_data_to_look_at_is_named():
    events = [outcome(step, 9.0) for step in (400, 800)]
    found = tuple(explained(one.spike, "bad batch", ids=(7, 8)) for one in events)
    said = verdict(only(*events, explanations=found)).advice
    assert said[1].startswith("Look at the batch of steps 400 and 800: ")


def test_a_guard_that_is_there_is_not_advised():
    one = outcome(400, 9.0)
    found = (explained(one.spike, "preconditioner lag"),)
    assert verdict(only(one, explanations=found, guard=("auto", 9))).advice[-1] == (
        "The guard was at work and did not prevent what happened at step 400: the learning rate may be too "
        "high in itself."
    )
    low = outcome(400, 2.0)
    found = (explained(low.spike, "preconditioner lag"),)
    assert verdict(only(low, explanations=found, guard=("auto", 9))).advice == (
        "Nothing needs to be done: the guard acted, and no spike is above 2×.",
    )


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (
            [2.0] * 300 + [3.2] * 300,
            "Go back to a checkpoint from before step 300, and change what caused it first.",
        ),
        ([2.0] * 60 + [math.nan] * 300, "from before step 60, and change what caused it first."),
    ],
)
def test_what_cost_the_run_asks_for_a_checkpoint(losses, words):
    [event] = detect_events(range(len(losses)), losses)
    lost = (explained(event, outcome="catastrophic"),)
    found = verdict(only(of(event), last_step=len(losses) - 1, explanations=lost)).advice
    assert words in found[0]
    assert not any("Nothing" in line for line in found)


def test_a_run_that_is_well_asks_for_nothing():
    assert verdict(calm()).advice == ("Nothing needs to be done.",)


def test_a_run_that_recovered_asks_for_something_against_the_next_spike_only():
    found = verdict(only(outcome(400, 9.0), outcome(800, 1.1))).advice
    assert found[0].startswith("The run recovered: nothing needs to be done for it")
    assert found[1].startswith("At steps 400 and 800, none of the tests holds.")
    assert "from a checkpoint before them with" in found[1]
    assert "from a checkpoint before it with" in verdict(only(outcome(400, 9.0))).advice[1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"probes": NO_PROBES, "forecasts": 0}, "Give the monitor a loss_fn"),
        (
            {"probes": NO_PROBES, "forecasts": 0, "meta": {"imported_from": "a.csv"}},
            "Watch the next run with foreshock.Monitor: an imported log has no curvature",
        ),
        (
            {"probes": dataclasses.replace(NO_PROBES, failed=9, last_error="out of memory")},
            "Mend the probes, all of which failed: out of memory.",
        ),
        ({"coverage": Coverage(0.1, 0.8)}, "for 80 % of the steps nothing was known"),
        ({"coverage": Coverage(0.95, 0.0)}, "it was on for 95 % of the steps"),
    ],
)
def test_what_makes_the_forecasts_poor_is_to_be_mended(fields, words):
    found = verdict(calm(**fields)).advice
    assert len(found) == 1
    assert words in found[0]


def test_misuse_comes_before_everything_else():
    misuse = RunEvent("misuse: the loss is a sum", "pass the mean", 7, 90, 3)
    losses = [2.0] * 300 + [3.2] * 300
    [event] = detect_events(range(600), losses)
    for summary in (
        only(of(event), events=(misuse,)),
        calm(events=(misuse,)),
        changed(steps=0, events=(misuse,)),
    ):
        assert verdict(summary).advice[0] == "The loss is a sum (steps 7–90, 3 ×): pass the mean"
    assert "Nothing needs to be done." not in verdict(calm(events=(misuse,))).advice


def test_one_sentence_stands_behind_its_title_and_several_below():
    found = dataclasses.replace(verdict(calm()), why=("A.", "B."), advice=("C.",))
    assert lines(found) == ["Why:", "  - A.", "  - B.", "What to do: C."]


def test_a_learning_rate_that_the_guard_found_too_high_is_to_be_lowered():
    cooldown = RunEvent("guard cooldown", "why", 75, 402, 3)
    low = outcome(400, 2.0)
    found = (explained(low.spike, "preconditioner lag"),)
    for summary in (
        only(low, explanations=found, events=(cooldown,), guard=("auto", 9)),
        calm(events=(cooldown,), guard=("auto", 9)),
    ):
        said = verdict(summary).advice
        assert said[0] == (
            "Lower the learning rate, or warm it up for longer: the guard found it too high in itself "
            "(steps 75–402, 3 ×)."
        )
        assert not any(words.startswith("Nothing needs to be done") for words in said)


@pytest.mark.parametrize(("cause", "leaves"), [("preconditioner lag", False), ("landscape", True)])
def test_a_lower_rate_is_not_advised_where_it_is_said_to_delay_only(cause, leaves):
    summary = changed(
        coverage=Coverage(in_alarm=0.8, unknown=0.0), explanations=(explained(spike(400, 38.2), cause),)
    )
    said = " ".join(verdict(summary).advice)
    assert "This run lives at the edge" in said
    assert ("a lower learning rate would leave it" in said) == leaves
    assert not ("a lower learning rate would leave it" in said and "only delays it" in said)
