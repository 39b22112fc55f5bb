"""Times against plain Adam's, and memory."""

from __future__ import annotations

import pytest

from foreshock.lab.guardbench import cost
from foreshock.lab.guardbench.cost import measure_costs, saved_costs
from foreshock.lab.guardbench.methods import METHODS, Method, method
from foreshock.lab.spikebench.suite import DEVELOPMENT, adam, configure

SUBJECT = configure(DEVELOPMENT, "mlp-tiny", adam(0.02), 5, 130, points=20, width=8)


class Clock:
    """A clock on which a reading takes one second, and nothing else any time unless it says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


class Slow:
    """An intervention that takes two seconds of a clock."""

    passes = 0.0

    def __init__(self, clock):
        self.clock = clock

    def before_step(self, batch, loss):
        self.clock.now += 2.0

    def after_step(self):
        return False

    def close(self):
        self.closed = True

    def buffers(self):
        return None


def test_adam_keeps_two_moments_and_amsgrad_three():
    found = measure_costs([method("adam"), method("amsgrad")], subject=SUBJECT, rounds=2)
    # 25 weights of four bytes and four step counters of four bytes.
    assert found["parameters"] == 25
    assert found["methods"]["adam"]["bytes"] == pytest.approx(8 + 16 / 25)
    assert found["methods"]["amsgrad"]["bytes"] == pytest.approx(12 + 16 / 25)


def test_a_step_that_takes_two_seconds_more_takes_three_times_as_long_as_adam_s(monkeypatch):
    clock = Clock()
    helper = Slow(clock)
    monkeypatch.setattr(cost, "time", clock)
    slow = Method("slow", "own", "nobody", intervene=lambda subject: helper)
    found = measure_costs([slow], subject=SUBJECT, rounds=4)
    assert found["step"] == 1.0
    assert found["methods"]["slow"]["median"] == 3.0
    assert found["methods"]["slow"]["mean"] == 3.0
    assert helper.closed


def test_a_guard_s_own_buffers_are_counted():
    found = measure_costs([method("adam"), method("guard-secant")], subject=SUBJECT, rounds=2)["methods"]
    # The displacement is held whether or not it is valid at the last step.
    assert found["guard-secant"]["bytes"] == pytest.approx(found["adam"]["bytes"] + 4)


def test_costs_are_measured_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(cost, "measure_all_costs", lambda: calls.append(1) or {"methods": {}})
    path = tmp_path / "costs.json"
    assert saved_costs(path, measure=False) is None
    assert saved_costs(path)["methods"] == {}
    assert saved_costs(path)["methods"] == {}
    assert calls == [1]
    monkeypatch.setattr(cost, "code_hash", lambda modules: "changed")
    assert saved_costs(path, measure=False)["methods"] == {}
    assert saved_costs(path)["code"] == "changed"
    assert calls == [1, 1]


def test_some_methods_are_timed_on_a_larger_model_too(monkeypatch):
    names = {id(cost.SUBJECT): [], id(cost.LARGER): []}

    def measured(methods=METHODS, *, subject=cost.SUBJECT):
        names[id(subject)] += [one.name for one in methods]
        return {"methods": len(methods)}

    monkeypatch.setattr(cost, "measure_costs", measured)
    assert cost.measure_all_costs() == {
        "methods": len(METHODS),
        "larger": {"methods": len(cost.ALSO_LARGER)},
    }
    assert set(names[id(cost.LARGER)]) == set(cost.ALSO_LARGER)


def test_at_least_one_round():
    with pytest.raises(ValueError, match="rounds is 0"):
        measure_costs([], rounds=0)
