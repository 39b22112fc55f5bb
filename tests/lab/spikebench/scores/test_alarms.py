"""Alarm scores on traces whose answers can be counted by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from foreshock.lab.spikebench.rules import RULES, Rule
from foreshock.lab.spikebench.scores import score_rules
from foreshock.lab.spikebench.scores.alarms import auroc, ranks, spearman
from foreshock.lab.spikebench.scores.tally import calibrated, curve_grid, summed, tally
from foreshock.lab.spikebench.spikes import truth_of
from foreshock.lab.spikebench.trace import Column
from lab.spikebench.traces import column, noisy_trace, spiky_loss, trace

RULE = Rule("ratio", "test", ("probe",), lambda one: one.column("stability_ratio"), 1.0)


def ratio(n=600, raised=(), level=2.0, every=1):
    """Return a ratio of ½ that is raised within the given (first, last) ranges."""
    steps = np.arange(0, n, every)
    values = np.full(steps.size, 0.5)
    for first, last in raised:
        values[(steps >= first) & (steps <= last)] = level
    return Column(steps, values)


def run(raised=(), loss=None, every=1, **changes):
    loss = spiky_loss() if loss is None else loss
    return trace(loss, {"stability_ratio": ratio(len(loss), raised, every=every)}, **changes)


def one(traces, at="default", group="all", split="development", spikes="3x"):
    return score_rules(traces, [RULE])["scores"][split][group]["ratio"][at][spikes]


def test_leads_hits_and_false_alarms_are_counted():
    entry = one([run([(150, 199), (300, 310), (390, 402)])])
    assert (entry["spikes"], entry["hits"], entry["recall"]) == (2, 2, 1.0)
    assert entry["leads"] == [10, 50]
    assert (entry["lead_median"], entry["lead_10"]) == (30.0, 14.0)
    assert entry["recall_early"] == 1.0
    assert entry["false_spiky"] == pytest.approx(1000 * 1 / 500)
    # 50 + 11 + 10 steps of the 494 outside the two spikes of three steps.
    assert entry["share_spiky"] == pytest.approx(71 / 494)
    assert entry["false_control"] is None


def test_the_echo_of_a_spike_is_no_false_alarm():
    assert one([run([(198, 215)])])["false_spiky"] == 0


def test_a_late_alarm_is_a_hit_but_not_an_early_one():
    entry = one([run([(195, 202)])])
    assert (entry["recall"], entry["recall_early"]) == (0.5, 0.0)


def test_tall_spikes_are_told_apart():
    loss = spiky_loss(onsets=(200,), height=4.0) + spiky_loss(onsets=(400,), height=20.0) - 1
    entry = one([run([(380, 400)], loss)])
    assert entry["recall"] == 0.5
    assert (entry["tall"]["spikes"], entry["tall"]["recall"]) == (1, 1.0)


def test_sparse_measurements_are_one_episode():
    alarms = run([(200, 500)], np.ones(600), every=30)
    truth = truth_of(alarms)
    values = alarms.column("stability_ratio")
    assert tally(truth, [], values.steps, values.values > 1).false_alarms == 1


def test_controls_are_counted_apart_and_splits_never_mixed():
    control = run([(300, 310)], np.ones(600), role="control")
    held = run([(150, 199)], split="held-out")
    assert one([control])["false_control"] == pytest.approx(2.0)
    assert one([control, held], split="held-out")["false_control"] is None
    assert one([control, held], split="held-out")["hits"] == 1


def test_groups_are_kind_language_and_family():
    traces = [run(), run(kind="mini", language=True, family="text")]
    found = score_rules(traces, [RULE])["scores"]["development"]
    assert list(found) == ["all", "full", "mini", "language", "family mlp", "family text"]
    assert set(found["language"]["ratio"]["default"]) == {"3x", "+20 %", "+3 % sustained"}
    assert set(found["full"]["ratio"]["default"]) == {"3x"}


def test_a_trace_without_scores_does_not_count():
    bare = trace(spiky_loss())
    assert score_rules([bare], [RULE])["scores"]["development"]["all"]["ratio"] is None
    entry = score_rules([bare, run([(150, 199)])], [RULE])["scores"]["development"]["all"]["ratio"]
    assert (entry["traces"], entry["default"]["3x"]["spikes"]) == (1, 2)


def test_area_asks_whether_a_spike_starts_within_fifty_steps():
    perfect = run([(150, 199), (350, 399)])
    assert score_rules([perfect], [RULE])["scores"]["development"]["all"]["ratio"]["auroc"] == 1.0
    # 51 steps before: one step too early, of the 350 steps from which nothing follows.
    late = run([(149, 199), (350, 399)])
    entry = score_rules([late], [RULE])["scores"]["development"]["all"]["ratio"]
    truth = truth_of(late)
    negatives = int((truth.asked & ~truth.soon).sum())
    assert negatives == 450 - 100 - 6
    assert entry["auroc"] == pytest.approx(1 - 0.5 / negatives)


def test_steps_are_not_asked_where_the_future_is_unknown():
    truth = truth_of(trace(spiky_loss(onsets=(580,))))
    asked = truth.judged[truth.asked]
    assert asked[-1] == 579  # the spike is known to come; what follows it isn't
    assert truth.judged[truth.soon].tolist() == list(range(530, 580))
    assert truth_of(trace(np.ones(600))).asked.sum() == 450


def stepped(levels, **changes):
    """Return a control whose ratio visits each level for three steps, 60 steps apart."""
    values = np.full(6000, 0.1)
    for i, level in enumerate(levels):
        values[200 + 60 * i : 203 + 60 * i] = level
    return trace(np.ones(6000), {"stability_ratio": column(values)}, role="control", **changes)


def test_the_calibrated_threshold_is_the_lowest_with_half_a_false_alarm_per_thousand():
    control = stepped([3.0, 2.9, 2.8, 2.7, 2.6])
    truth = truth_of(control)
    threshold = calibrated([(truth, control.column("stability_ratio"))])
    # 5,900 steps allow two episodes.
    assert 2.7 <= threshold + 0.1 <= 2.9
    counted = tally(truth, [], np.arange(6000), control.column("stability_ratio").values > threshold)
    assert counted.false_alarms == 2


def test_an_alarm_that_never_ends_does_not_pass_for_none():
    values = np.linspace(1.0, 2.0, 2000)
    control = trace(np.ones(2000), {"stability_ratio": column(values)}, role="control")
    threshold = calibrated([(truth_of(control), control.column("stability_ratio"))])
    assert threshold > 1.94


def test_no_threshold_may_do_or_be_known():
    values = np.where(np.arange(2000) % 100 < 5, np.inf, 1.0)
    control = trace(np.ones(2000), {"stability_ratio": column(values)}, role="control")
    assert calibrated([(truth_of(control), control.column("stability_ratio"))]) == math.inf
    assert math.isnan(calibrated([]))
    found = score_rules([control, run()], [RULE])
    assert found["rules"]["ratio"]["calibrated"] == {"full": None}


def test_held_out_runs_change_no_threshold():
    control, spiky = stepped([3.0, 2.9, 2.8]), run([(150, 199)])
    others = [stepped([7.0, 6.0, 5.0], split="held-out"), run([(5, 9)], split="held-out")]
    alone = score_rules([control, spiky], [RULE])
    beside = score_rules([control, spiky, *others], [RULE])
    assert alone["rules"] == beside["rules"]
    assert alone["scores"]["development"] == beside["scores"]["development"]


def test_each_kind_has_its_own_threshold():
    mini = trace(np.ones(600), {"stability_ratio": ratio(600, level=9.0)}, role="control", kind="mini")
    full = trace(np.ones(600), {"stability_ratio": column(np.full(600, 0.7))}, role="control")
    found = score_rules([mini, full], [RULE])
    assert found["rules"]["ratio"]["calibrated"] == {"full": 0.7, "mini": 0.5}


def test_the_curve_rises_in_threshold_and_holds_the_default():
    grid = curve_grid([(truth_of(run()), ratio(600, [(300, 310)]))], 1.0)
    assert grid == sorted(grid)
    assert {0.5, 1.0, 2.0} == set(grid)
    curve = score_rules([run([(150, 199)])], [RULE])["scores"]["development"]["all"]["ratio"]["curve"]
    assert [(level["threshold"], level["recall"]) for level in curve] == [(0.5, 0.5), (1.0, 0.5), (2.0, 0.0)]


def test_nothing_to_sum_is_unknown():
    empty = summed([])
    assert empty["spikes"] == 0
    assert empty["recall"] is empty["false_control"] is empty["lead_median"] is None


def test_all_rules_together_are_plain_json():
    traces = [
        noisy_trace(n=300, kind=kind, role=role, split=split, seed=seed, language=kind == "mini")
        for seed, (kind, role, split) in enumerate(
            (kind, role, split)
            for kind in ("full", "mini")
            for role in ("spiky", "control")
            for split in ("development", "held-out")
        )
    ]
    found = score_rules(traces)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["rules"]) == {rule.name for rule in RULES}
    assert set(found["scores"]["held-out"]["mini"]) == set(found["rules"])


def counted(scores, labels):
    """Return the area by comparing every positive with every negative."""
    pairs = [(p, n) for p in scores[labels] for n in scores[~labels]]
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_area_is_the_share_of_pairs_in_order(seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, size=60).astype(float)
    labels = random.random(60) < 0.3
    assert auroc(scores, labels) == pytest.approx(counted(scores, labels), abs=1e-12)


def test_unknown_is_lowest_and_infinity_highest():
    labels = np.array([True, False, True])
    assert auroc(np.array([np.inf, 3.0, 4.0]), labels) == 1.0
    assert auroc(np.array([5.0, np.nan, -np.inf]), labels) == 0.75


def test_area_needs_both_kinds_and_pairs():
    assert math.isnan(auroc(np.ones(3), np.ones(3, dtype=bool)))
    assert math.isnan(auroc(np.ones(3), np.zeros(3, dtype=bool)))
    with pytest.raises(ValueError, match="pair up"):
        auroc(np.ones(3), np.ones(2, dtype=bool))


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_agrees_with_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 8, size=(2, 30)).astype(float)
    np.testing.assert_array_equal(ranks(a), stats.rankdata(a))
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rank_correlation_of_too_little_is_unknown():
    assert math.isnan(spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    assert math.isnan(spearman(np.ones(4), np.arange(4.0)))
    assert spearman(np.array([1.0, 2.0, np.inf]), np.array([9.0, 4.0, 1.0])) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="pair up"):
        spearman(np.ones(3), np.ones(4))
