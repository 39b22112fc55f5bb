import math

import numpy as np
import pytest

from foreshock.explain import remedy
from foreshock.live.headline import Situation, headline
from foreshock.spikes import LossEvent
from live_logs import forecast
from summaries import explained

ONES = np.ones(100)


def spike(kind="spike", onset=400, end=420, **fields):
    return LossEvent(kind, onset, onset + 2, end, 1.0, fields.pop("rise", 9.0), 0.01, **fields)


def said(last_step, state="stable", *, losses=ONES, **fields):
    situation = {k: fields.pop(k) for k in list(fields) if k in Situation.__annotations__}
    return headline(
        Situation(last_step, losses, forecast=forecast(last_step - 10, state, **fields)[1], **situation)
    )


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("stable", "calm"),
        ("rising", "rising"),
        ("edge", "danger"),
        ("armed", "danger"),
        ("spike", "danger"),
        ("recovery", "recovering"),
        ("unknown", "unknown"),
    ],
)
def test_each_state_of_a_forecast_has_its_line(state, expected):
    assert said(500, state).state == expected


@pytest.mark.parametrize(
    ("state", "level", "expected"),
    [
        ("armed", "", "rising"),
        ("stable", "watch", "rising"),
        ("stable", "alarm", "danger"),
        ("spike", "", "danger"),
        ("stable", "", "calm"),
    ],
)
def test_where_a_log_has_levels_they_decide(state, level, expected):
    assert said(500, state, level=level).state == expected


@pytest.mark.parametrize("state", ["stable", "rising", "edge", "recovery", "unknown"])
def test_nothing_is_calm_while_a_rank_departs(state):
    alone, found = said(500, state), said(500, state, departing=[3, 1, 3])
    calm = alone.state in ("calm", "recovering")
    assert found.state == ("departing" if calm else alone.state)
    assert "anks 1, 3 depart from the others" in found.words
    assert alone.words.partition(": ")[2] in found.words
    assert "Nothing" not in found.advice
    assert found.advice.endswith("foreshock report says what to do about it.")


def test_danger_has_probability_date_and_what_to_do():
    found = said(
        500,
        "edge",
        stability_ratio=0.94,
        probability=0.63,
        steps_to_instability=50.0,
        interval_low=20.0,
        interval_high=90.0,
        cause_hint="no faster than v decays",
        horizon=100.0,
        steps_a_second=1.0,
    )
    assert found.words.startswith("In danger: a spike within 100 steps has probability 63 %")
    assert "about step 540 (510 – 580), in about 40 seconds" in found.words
    assert "checkpoint" in found.advice
    assert "foreshock.guard" in found.advice


def test_a_guard_makes_advice_needless():
    assert "guard acts by itself" in said(500, "armed", guarded=True).advice


def test_an_open_interval_is_said():
    words = said(500, "rising", steps_to_instability=50.0, interval_low=20.0, interval_high=math.inf).words
    assert "(510 – open)" in words


def test_a_spike_is_news_for_the_horizon():
    fresh = said(450, events=(spike(),), horizon=50.0, lead=30)
    assert fresh.state == "spiked"
    assert "step 400 to 10× the level before, announced 30 steps ahead, back since step 421" in fresh.words
    assert said(480, events=(spike(),), horizon=50.0).state == "calm"


def test_a_spike_that_goes_on_is_said_to_be_high():
    found = said(410, going_on=spike(end=410))
    assert "not announced, still high" in found.words
    assert found.advice.startswith("Wait for it")


def test_a_loss_that_did_not_come_back_has_diverged():
    event = spike("divergence", end=600)
    high = said(5000, events=(event,), losses=np.full(100, 9.0))
    assert high.state == "diverged"
    assert "checkpoint from before step 400" in high.advice
    assert said(5000, events=(event,), losses=ONES).state == "calm"


def test_a_loss_that_is_no_number_has_diverged():
    event = spike("non-finite", end=500, rise=math.inf, first_non_finite=402)
    found = said(500, going_on=event, losses=np.full(100, math.nan))
    assert found.state == "diverged"
    assert found.words == "The loss was NaN or infinite from step 402 on"


def test_without_forecasts_no_spike_was_missed():
    found = headline(Situation(450, ONES, events=(spike(),), horizon=50.0))
    assert found.words == "Spiked at step 400 to 10× the level before, back since step 421"


@pytest.mark.parametrize(
    ("state", "expected"),
    [("stable", "unknown"), ("recovery", "unknown"), ("unknown", "unknown"), ("armed", "danger")],
)
def test_without_losses_nothing_is_calm(state, expected):
    found = said(500, state, losses=np.full(100, math.nan), measured=False, alarm=480)
    assert found.state == expected
    if expected == "unknown":
        assert found.words == "Not known: no losses were recorded; the last alarm was at step 480"
        assert found.advice == "Call monitor.observe(batch, loss) at every step."


def test_what_is_not_known_says_when_and_what_helps():
    late = said(500, "unknown", basis="the curvature was last measured 40 steps ago, at step 450")
    assert late.words == "Not known at step 490: the curvature was last measured 40 steps ago, at step 450"
    assert "measure more often" in late.advice
    failed = said(500, "unknown", basis="the probe failed: TypeError: 2 were given")
    assert "mend the probe" in failed.advice


def test_the_horizon_is_that_of_the_probability():
    words = said(500, "stable", probability=0.05, horizon=200.0).words
    assert words.endswith("a spike within 200 steps has probability 5 %")
    own = headline(Situation(500, ONES, forecast=forecast(490, probability=0.05, horizon=50)[1]))
    assert own.words.endswith("a spike within 50 steps has probability 5 %")


def test_an_old_forecast_is_none():
    old = headline(Situation(1000, ONES, forecast=forecast(10)[1]))
    assert old.state == "unknown"
    assert "990 steps old" in old.words


def test_without_forecasts_it_says_what_is_missing():
    assert "loss_fn" in headline(Situation(5, ONES)).advice
    assert headline(Situation(5, ONES, imported=True)).advice.startswith(
        "Watch the next run with foreshock.Mon"
    )
    assert headline(Situation(None, np.empty(0))).state == "waiting"


def test_what_caused_a_spike_is_said_and_what_helps_against_it():
    event = spike()
    found = said(450, events=(event,), horizon=50.0, explained=explained(event, "bad batch"))
    assert found.words.endswith("; cause: bad batch")
    assert found.advice == remedy("bad batch", [400])
    unknown = said(
        450, events=(event,), horizon=50.0, explained=explained(event), cause_hint="no faster than v decays"
    )
    assert unknown.words.endswith("; not explained")
    assert unknown.advice == "foreshock explain says what was known before it."
    # An explanation of an earlier spike says nothing of this one.
    earlier = explained(spike(onset=200), "bad batch")
    assert "cause" not in said(450, events=(event,), horizon=50.0, explained=earlier).words


def test_a_guard_is_not_advised_where_one_is_at_work():
    event = spike()
    lag, batch = (explained(event, name) for name in ("preconditioner lag", "bad batch"))
    assert "guard is at work" in said(450, events=(event,), guarded=True, explained=lag).advice
    assert said(450, events=(event,), guarded=True, explained=batch).advice == remedy("bad batch", [400])
