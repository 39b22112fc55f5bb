"""Random trainings are the same with and without a monitor or an idle guard; the harness would see if not."""

from __future__ import annotations

import dataclasses
import logging

import pytest
from benchmarks.harm.cases import WATCHES, Case, compare
from benchmarks.harm.effects import EFFECTS

# Models and schedules warn of what they do on purpose.
pytestmark = pytest.mark.filterwarnings("ignore")


def harmed(seeds):
    logging.getLogger("foreshock").setLevel(logging.CRITICAL)
    found, compared = [], 0
    for seed in seeds:
        case = Case.draw(seed)
        outcome = compare(case)
        compared += outcome is not None
        if outcome is not None and (outcome.error or (outcome.different and not outcome.counts["acted"])):
            found.append((case, outcome))
    return found, compared


@pytest.fixture(autouse=True)
def _level():
    yield
    logging.getLogger("foreshock").setLevel(logging.NOTSET)


def test_some_cases():
    found, compared = harmed(range(40))
    assert not found
    assert compared > 35


@pytest.mark.slow
def test_two_thousand_cases():
    found, compared = harmed(range(100, 2100))
    assert not found
    assert compared > 1900


@pytest.mark.parametrize("effect", ["clamp", "draw", "normalise", "step"])
def test_harm_is_seen(effect, monkeypatch):
    """With the isolation of probes taken away."""
    for module in ("foreshock.curvature.prober.isolated", "foreshock.operators.gradients.Replay"):
        monkeypatch.setattr(module, lambda *_: _Nothing())
    monkeypatch.setattr("foreshock.curvature.terms.fresh", lambda batch: batch)
    case = Case(3, "perceptron", "Adam", "curvature", effect, "", frozenset(), same_data=True)
    assert compare(case).different


class _Nothing:
    """In the place of `isolated` and `Replay`."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def __call__(self):
        return self


def test_every_way_to_watch_watches():
    counts = {}
    for watch in WATCHES:
        case = Case(3, "batch norm", "Adam", watch, "", "", frozenset(), same_data=watch != "guard and pairs")
        outcome = compare(case)
        assert not outcome.different
        counts[watch] = outcome.counts["evaluations"]
    assert [watch for watch, made in counts.items() if not made] == ["guard", "free signals"]


def test_an_effect_takes_place():
    case = Case(3, "perceptron", "Adam", "curvature", "fail", "", frozenset(), same_data=True)
    # Each of three probes that fail is evaluated again to say why; one that is refused is only tried with
    # both backends.
    assert 3 <= compare(case).counts["evaluations"] <= 9
    assert compare(dataclasses.replace(case, effect="step")).counts["evaluations"] <= 2
    assert set(EFFECTS) >= {"clamp", "pop", "fail"}
