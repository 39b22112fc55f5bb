"""What the search for advice tries, what it leaves out, and what has to hold from the start of the run."""

from __future__ import annotations

import pytest

from foreshock.replay.advice import Candidate
from foreshock.replay.outcome import ReplayOutcome, events_after
from foreshock.replay.search import Attempt, search

GOOD, SLOW, SPIKY, WORSE_LATER = (
    Candidate(name, size, "")
    for name, size in (("guard=on", 1), ("eps=x100", 1), ("beta2=0.99", 1), ("lr", 2))
)


def outcome(*spikes: int, loss: float = 1.0, steps: int = 200) -> ReplayOutcome:
    losses = [loss] * steps
    for one in spikes:
        losses[one - 1 : one + 2] = [9 * loss] * 3
    before = [(step, loss) for step in range(300)]
    return ReplayOutcome("", 299, tuple(losses), events_after(299, before, losses))


class Runs:
    """Trainings by hand: spikes and loss of the window, and of the run from its start, by change."""

    def __init__(self, window, whole=None):
        self.window, self.whole, self.seen = window, whole or {}, []

    def __call__(self, attempts):
        self.seen += attempts
        found = []
        for one in attempts:
            what = (self.whole if one.whole else self.window)[one.change]
            spikes, loss = what[one.start] if isinstance(what, list) else what
            found.append(outcome(*spikes, loss=loss))
        return found

    def tried(self, change, *, whole=False):
        return [one.start for one in self.seen if (one.change, one.whole) == (change, whole)]


WINDOW = {
    "": ((90,), 1.0),
    "guard=on": ((), 0.6),
    "lr": ((), 0.3),
    "eps=x100": ((), 1.7),
    "beta2=0.99": ((95,), 0.5),
}


def test_one_start_is_enough_to_rule_a_change_out():
    runs = Runs(WINDOW)
    found = search(runs, [GOOD, SLOW, SPIKY], starts=3)
    assert runs.tried("guard=on") == [0, 1, 2]
    assert runs.tried("eps=x100") == runs.tried("beta2=0.99") == [0]
    assert found.chosen is not None
    assert found.chosen.candidate is GOOD
    assert [trial.starts for trial in found.trials] == [3, 1, 1]
    assert found.whole == ()


def test_what_spikes_from_another_start_is_not_chosen():
    runs = Runs(WINDOW | {"guard=on": [((), 0.6), ((120,), 0.6)]})
    assert search(runs, [GOOD], starts=2).chosen is None


def test_what_gains_in_the_window_has_to_hold_from_the_start_of_the_run():
    """The best of the window loses over the whole run; the next one holds there, and is chosen."""
    runs = Runs(WINDOW, {"": ((60, 90), 1.0), "lr": ((), 1.6), "guard=on": ((60,), 0.8)})
    found = search(runs, [GOOD, WORSE_LATER], starts=2, whole_steps=200)
    assert found.chosen is not None
    assert found.chosen.candidate is GOOD
    assert [(one.candidate, one.holds) for one in found.whole] == [(WORSE_LATER, False), (GOOD, True)]
    assert runs.tried("lr", whole=True) == [0], "one start is enough to see that it does not hold"
    assert runs.tried("guard=on", whole=True) == runs.tried("", whole=True) == [0, 1]
    assert found.whole[1].loss == pytest.approx(0.8)


@pytest.mark.parametrize(
    "whole",
    [
        {"": ((60, 90), 1.0), "guard=on": [((), 0.8), ((), 1.2)]},  # higher from one start
        {"": ((60, 90), 1.0), "guard=on": ((60, 90), 0.8)},  # as many spikes
    ],
)
def test_what_is_not_clearly_better_is_not_advised(whole):
    found = search(Runs(WINDOW, whole), [GOOD], starts=2, whole_steps=200)
    assert found.chosen is None
    assert not found.whole[-1].holds
    assert found.has_trouble


def test_where_there_is_nothing_to_remove_nothing_else_is_tried():
    runs = Runs({"": ((), 1.0)})
    found = search(runs, [GOOD, SPIKY], starts=2, whole_steps=200)
    assert not found.has_trouble
    assert runs.seen == [Attempt("", 0), Attempt("", 1)]


def test_a_window_without_a_step_is_refused():
    empty = ReplayOutcome("", 5, (), (), failure="the batches end before step 6")
    with pytest.raises(ValueError, match="no step to try: the batches end before step 6"):
        search(lambda attempts: [empty] * len(attempts), [GOOD], starts=1)
