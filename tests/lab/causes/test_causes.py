"""The labelled set: draws that repeat, halves by number, trainings that are what they say, scores."""

from __future__ import annotations

import json

import pytest

from foreshock.explain import CAUSES
from foreshock.lab.causes.scenario import FRESH, draw_scenario
from foreshock.lab.causes.scoring import confusion_table, explained_as, right, score_spikes
from foreshock.lab.causes.training import all_spikes, half_of_spikes, record_spike


@pytest.mark.parametrize("cause", CAUSES)
def test_a_draw_repeats_and_another_number_gives_another(cause):
    one = draw_scenario(cause, 4)
    assert one == draw_scenario(cause, 4)
    assert one.split == "held-out"
    others = [draw_scenario(cause, index) for index in (5, 6, 7)] + [draw_scenario(cause, 4, attempt=1)]
    assert len({(other.seed, other.lr) for other in (one, *others)}) == 5
    assert [other.split for other in others[:3]] == ["development", "held-out", "development"]


def test_an_unknown_cause_is_refused():
    with pytest.raises(ValueError, match="cause is 'gremlins'; it must be one of preconditioner lag"):
        draw_scenario("gremlins", 0)


def test_half_of_the_set_is_held_out():
    spikes = all_spikes(20)
    assert len(spikes) == 20 * len(CAUSES)
    assert sum(draw_scenario(*one).split == "held-out" for one in spikes) == 10 * len(CAUSES)


@pytest.mark.parametrize("split", ["development", "held-out"])
def test_a_half_takes_the_causes_by_turns(split):
    spikes = half_of_spikes(20, split)
    assert [cause for cause, _ in spikes[: len(CAUSES)]] == list(CAUSES)
    assert len(set(spikes)) == 10 * len(CAUSES)
    assert {draw_scenario(*one).split for one in spikes} == {split}


def test_held_out_draws_that_were_scored_before_do_not_count_again(tmp_path):
    path = record_spike("gradient overflow", FRESH - 2, tmp_path)
    with pytest.raises(ValueError, match="has no spike of the held-out half"):
        score_spikes(tmp_path, split="held-out")
    truth = json.loads(path.read_text())
    path.write_text(json.dumps(truth | {"scenario": truth["scenario"] | {"index": FRESH}}))
    assert right(score_spikes(tmp_path, split="held-out"))[2] == 1


# Overflows happen in any arithmetic.
@pytest.mark.parametrize("cause", ["gradient overflow", "forward overflow"])
def test_a_spike_is_recorded_and_explained(cause, tmp_path):
    path = record_spike(cause, 1, tmp_path)
    truth = json.loads(path.read_text())
    scenario = truth["scenario"]
    assert scenario["cause"] == cause
    assert scenario["at"] <= truth["onset"] <= scenario["at"] + 60
    named, without = explained_as(path.parent, truth["onset"], cause)
    assert named == [cause]
    assert without == ["not explained"]
    scores = score_spikes(tmp_path, split="development")
    assert right(scores) == (1, 1, 1)
    headers, rows = confusion_table(scores)
    assert rows == [[cause, "1", "1 of 1"]]
    assert headers == ["what it was", cause, "left out → not explained"]
    with pytest.raises(ValueError, match="has no spike of the held-out half"):
        score_spikes(tmp_path, split="held-out")
