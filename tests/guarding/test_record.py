"""The last actions of a guard: a short sequence that can be sliced."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
from torch import optim

from foreshock.guarding import ActionLog, GuardAction, guard
from guarding.training import Script, asked, data, network, train


def action(step, remedy="clip"):
    return GuardAction(step, "script", remedy, "why", 1.0, 0.9, 0.5)


def test_the_last_actions_are_a_sequence_of_bounded_length():
    log = ActionLog(limit=3)
    assert not log
    for step in range(5):
        log.append(action(step))
    assert isinstance(log, Sequence)
    assert len(log) == 3
    assert [one.step for one in log] == [2, 3, 4]
    assert [log[0].step, log[-1].step] == [2, 4]
    assert log[-2:] == [action(3), action(4)]
    assert log[::-1] == list(reversed(log))
    assert action(3) in log
    assert log.index(action(4)) == 2
    with pytest.raises(IndexError):
        log[3]


def test_logs_are_equal_where_their_actions_are():
    log, other = ActionLog(limit=3), ActionLog(limit=5)
    assert log == other == []
    log.append(action(2))
    assert log != other
    other.append(action(2))
    assert log == other
    assert log == [action(2)]
    assert log != [action(3)]
    assert log != (action(2),)
    assert copy.deepcopy(log) == log


def test_they_and_the_guard_are_shown_in_a_line():
    model = network()
    watched = guard(optim.AdamW(model.parameters()), Script({2: asked("clip", 0.5), 4: asked("clip", 0.5)}))
    assert repr(watched) == "<Guard 'script' of AdamW: 0 steps, no actions>"
    train(model, watched.optimizer, data(), 3)
    assert repr(watched.actions) == "<1 action, the last one 'clip' at step 2>"
    train(model, watched.optimizer, data(), 3)
    assert repr(watched) == "<Guard 'script' of AdamW: 6 steps, 2 actions, the last one 'clip' at step 4>"
    assert copy.deepcopy(watched.actions)[-5:] == list(watched.actions)
