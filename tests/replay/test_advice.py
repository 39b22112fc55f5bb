"""Which change is chosen, from outcomes made by hand; and what a real training is advised."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.replay.advice import Candidate, candidates, choose, choose_start
from foreshock.replay.outcome import ReplayOutcome, events_after
from foreshock.representation import changed


def outcome(*spikes: int, loss: float = 1.0, steps: int = 200) -> ReplayOutcome:
    """A window of a constant loss with spikes at some steps after its start."""
    losses = [loss] * steps
    for one in spikes:
        losses[one - 1 : one + 2] = [5 * loss] * 3
    before = [(step, loss if math.isfinite(loss) else 1.0) for step in range(300)]
    return ReplayOutcome("", 299, tuple(losses), events_after(299, before, losses))


SMALL, LARGE = Candidate("beta2=0.99", 1, ""), Candidate("beta2=0.9", 3, "")
AS_IT_WAS = [outcome(30, 60, 90), outcome(55, 120, 150)]


def effect(*outcomes: ReplayOutcome) -> str:
    return choose([SMALL], [outcomes], AS_IT_WAS).trials[0].effect


def test_outcomes_made_by_hand_have_the_spikes_that_were_made():
    assert [event.onset for event in outcome(30, 90).spikes] == [329, 389]
    assert outcome(30, 90).holds == 30
    assert outcome().holds == 200
    assert outcome().height == 1.0


def test_effects():
    assert effect(outcome(), outcome()) == "removes"
    assert effect(outcome(), outcome(170)) == "postpones"
    assert effect(outcome(100), outcome(170)) == "postpones"
    assert effect(outcome(61), outcome(62)) == "fewer"
    assert effect(outcome(25, 60, 90, 110), outcome(60)) == "no help"
    assert effect(outcome(25), outcome(40)) == "removes", "they were on their way"
    assert effect(outcome(), outcome(loss=math.nan)) == "fails"
    assert effect(outcome(loss=30.0), outcome(loss=30.0)) == "fails"


def test_a_tremor_of_a_smooth_loss_is_no_spike():
    """Rises of a tenth, where those as it was are fourfold; by themselves they would count."""
    losses = [1.0] * 200
    losses[99:103] = [1.1] * 4
    tremor = ReplayOutcome(
        "", 299, tuple(losses), events_after(299, [(step, 1.0) for step in range(300)], losses)
    )
    assert len(tremor.spikes) == 1
    assert effect(tremor, tremor) == "removes"
    assert choose([SMALL], [[tremor]], [tremor]).unchanged == (1,)


def test_the_smallest_change_is_chosen_of_those_that_are_as_good():
    both = [outcome(), outcome()], [outcome(loss=0.99), outcome(loss=0.97)]
    assert choose([SMALL, LARGE], both, AS_IT_WAS).chosen.candidate is SMALL
    better = both[0], [outcome(loss=0.5), outcome(loss=0.5)]
    assert choose([SMALL, LARGE], better, AS_IT_WAS).chosen.candidate is LARGE


def test_what_stays_at_the_edge_is_chosen_only_if_nothing_else_helps():
    at_edge, safe = (
        [changed(outcome(loss=loss), stability_ratio=ratio)] * 2 for loss, ratio in ((0.5, 1.02), (0.9, 0.7))
    )
    assert choose([SMALL, LARGE], [at_edge, safe], AS_IT_WAS).chosen.candidate is LARGE
    assert choose([SMALL], [at_edge], AS_IT_WAS).chosen.at_edge


def test_what_costs_or_leaves_one_spike_is_not_chosen():
    found = choose([SMALL, LARGE], [[outcome(loss=1.1)] * 2, [outcome(), outcome(180)]], AS_IT_WAS)
    assert found.chosen is None
    assert [trial.effect for trial in found.trials] == ["removes", "postpones"]
    assert not found.trials[0].is_free
    assert found.postponing == (found.trials[1],)
    assert found.unchanged == (2, 3)


def test_a_window_with_spikes_in_it_is_chosen():
    losses = [1.0] * 1000
    losses[400:405] = losses[700:705] = [6.0] * 5
    recorded = list(enumerate(losses))
    starts = [100, 250, 380, 500, 600, 690, 900]
    assert starts[choose_start(starts, recorded, 200)] == 600, "690 is too late for the spike at 700"
    assert starts[choose_start(starts, recorded, 450)] == 500, "its window lies within the record"
    assert choose_start([100, 900], recorded, 50) == 1
    assert choose_start([900, 990], recorded, 200) == 0
    assert choose_start([5], [], 200) == 0


def test_without_spikes_nothing_is_advised():
    calm = [outcome(), outcome()]
    assert choose([SMALL], [calm], calm).chosen is None


def test_losses_below_zero_are_compared_by_their_difference():
    as_it_was = [outcome(loss=-2.0)]
    lower, higher = (choose([SMALL], [[outcome(loss=one)]], as_it_was).trials[0] for one in (-2.5, -1.5))
    assert (lower.loss, higher.loss) == (0.75, 1.25)
    assert lower.is_free
    assert not higher.is_free


def test_a_window_that_failed_as_it_was_is_improved_by_any_that_does_not():
    failed = [outcome(loss=math.nan)] * 2
    found = choose([SMALL], [[outcome(), outcome()]], failed)
    assert found.chosen is not None
    assert found.failed == 2
    assert found.has_trouble
    assert choose([SMALL], [failed], failed).trials[0].effect == "fails"


def test_where_there_is_nothing_to_remove_nothing_is_advised():
    found = choose([SMALL], [[outcome(), outcome()]], [outcome(), outcome(25)])
    assert not found.has_trouble
    assert found.chosen is None
    assert found.trials[0].effect == "no help"


def test_unequal_numbers_of_outcomes_are_refused():
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"must have 1 to 2 outcomes.* they have .{count}."):
            choose([SMALL], [[outcome()] * count], AS_IT_WAS)
    assert choose([SMALL], [[outcome()]], AS_IT_WAS).chosen is None, "from one start alone none is chosen"


def test_candidates_fit_the_optimizer():
    adam = [one.change for one in candidates({"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}, [2.0] * 20)]
    assert adam[:4] == ["guard=on", "beta2=0.99", "beta2=0.95", "beta2=0.9"]
    assert {"eps=x100", "eps=x10000", "clip=4", "clip=2", "lr=x0.5"} <= set(adam)
    sgd = [one.change for one in candidates({"lr": 1e-3, "momentum": 0.9}, [2.0] * 5)]
    assert sgd == ["lr=x0.7", "lr=x0.5", "lr=x0.25"]
    assert "eps=x100" not in [one.change for one in candidates({"lr": 1, "betas": (0.9, 0.9), "eps": 1e-5})]


def test_candidates_of_optimizers_without_a_second_moment():
    parameters = [torch.zeros(1, requires_grad=True)]
    asgd = candidates(torch.optim.ASGD(parameters).param_groups[0])
    assert all(one.change.startswith("lr=") for one in asgd), "its alpha is no decay of v"
    rms = torch.optim.RMSprop(parameters).param_groups[0]
    assert [one.change for one in candidates(rms)][:2] == ["guard=on", "beta2=0.95"]
    assert candidates(rms, guarded=False)[0].change == "beta2=0.95"
