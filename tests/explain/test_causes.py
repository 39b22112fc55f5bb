"""Each cause is told from the numbers of a log, and not from a log that lacks one of them."""

from __future__ import annotations

import numpy as np
import pytest

import foreshock
from foreshock.explain import CAUSES, explain_run
from logs_of_explain import AT, NAN, STEPS, calm, change, grown, grown_norm, growth, ratio, write


def one_high(value=40.0, n=STEPS, at=AT):
    loss = calm(n)
    loss[at] = value
    return loss


def stays(value=40.0, n=STEPS, at=AT):
    loss = calm(n)
    loss[at:] = np.geomspace(value, value / 2, n - at)
    return loss


def spiky(at=AT, value=90.0):
    norm = np.ones(STEPS)
    norm[at] = value
    return norm


def rate(times, at=AT - 2):
    rates = np.full(STEPS, 1e-3)
    rates[at:] *= times
    return rates


def size(value, at=AT):
    sizes = np.full(STEPS, 32)
    sizes[at] = value
    return sizes


def lengths(value):
    elements = np.full(STEPS, 320)
    elements[AT:] = value
    return elements


def lost(at, what):
    values = np.ones(STEPS) if what == "norm" else calm()
    values[at:] = NAN
    return values


LAG = {
    "loss": grown(),
    "gradient_norm": grown_norm(),
    "instant_lag": np.full(STEPS, 30.0),
    "decay_exponent": np.full(STEPS, 0.95),
    "second_moment": np.exp(-0.001 * np.arange(STEPS)),
    "records": [
        growth(190, 150, 0.01, 0.0),
        growth(240, 190, 0.01, 0.001),
        ratio(190, 0.6),
        ratio(240, 1.01),
    ],
}
SHARPER = LAG | {
    "decay_exponent": np.zeros(STEPS),
    "instant_lag": np.ones(STEPS),
    "records": [
        growth(190, 150, 0.0, 0.01),
        growth(240, 190, -0.002, 0.012),
        ratio(190, 0.6),
        ratio(240, 1.01),
    ],
}
RESUME = change(
    AT - 2,
    "resume",
    {"updates": 248, "instant_lag": 3.0, "second_moment": 1.0},
    {"updates": 1, "instant_lag": 1.0, "second_moment": 1.2},
)
COLD = change(
    AT - 2,
    "resume",
    {"updates": 248, "instant_lag": 3.0, "second_moment": 1.0},
    {"updates": 249, "instant_lag": 0.001, "second_moment": 0.001},
)
WARM = change(
    AT - 2,
    "resume",
    {"updates": 248, "instant_lag": 3.0, "second_moment": 1.0},
    {"updates": 249, "instant_lag": 2.5, "second_moment": 1.0},
)


def noise(typical, before=10):
    """The mean-square ratio as a forecast has it, and a measurement of the noise."""
    at = AT - before
    return [
        ("noise", {"step": at, "mean": 0.2, "variance": 0.1}),
        ("forecast", {"step": at, "typical_mean_square_ratio": typical, "lag": 4.0}),
    ]


SAME = change(1, "data", {"same": False}, {"same": True})
REPLACED = change(AT, "data", {"same": True}, {"same": False})

RIGHT = {
    "preconditioner lag": LAG,
    "landscape": SHARPER,
    "learning rate": {"loss": grown(), "gradient_norm": grown_norm(), "learning_rate": rate(10)},
    "bad batch": {"loss": one_high(), "gradient_norm": spiky()},
    "data change": {"loss": stays(), "gradient_norm": spiky()},
    "batch shape": {"loss": one_high(), "gradient_norm": spiky(), "batch_size": size(1)},
    "lost optimizer state": {"loss": grown(), "gradient_norm": grown_norm(), "records": [RESUME]},
    "parameters changed": {
        "loss": grown(),
        "gradient_norm": grown_norm(),
        "records": [
            change(
                AT - 3,
                "parameters",
                {"groups": 1, "tensors": 2},
                {"groups": 2, "tensors": 4, "new": 2, "gone": 0},
                ["0.weight"],
            )
        ],
    },
    "options changed": {
        "loss": grown(),
        "gradient_norm": grown_norm(),
        "records": [change(AT - 3, "options", {"betas": [0.9, 0.999]}, {"betas": [0.9, 0.9]})],
    },
    "forward overflow": {"loss": lost(AT, "loss"), "gradient_norm": lost(AT, "norm")},
    "gradient noise": {"loss": grown(), "gradient_norm": grown_norm(), "records": noise(0.9)},
    "gradient overflow": {"loss": lost(AT + 1, "loss"), "gradient_norm": lost(AT, "norm")},
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_told_from_its_numbers(cause, tmp_path):
    found = explain_run(write(tmp_path, **RIGHT[cause]))
    assert found[0].cause == cause, found[0].causes
    assert 0.5 <= found[0].causes[0].confidence <= 0.95
    assert found[0].advice


def without(cause, **changed):
    return RIGHT[cause] | changed


NOT = {
    "noise far from the edge": ("gradient noise", without("gradient noise", records=noise(0.3))),
    "noise long before": ("gradient noise", without("gradient noise", records=noise(0.9, before=150))),
    "noise before a wild batch": ("gradient noise", without("bad batch", records=noise(0.9))),
    "noise before other data": ("gradient noise", without("data change", records=noise(0.9))),
    "lag at a ratio far from the edge": (
        "preconditioner lag",
        without(
            "preconditioner lag",
            records=[growth(190, 150, 0.01, 0.0), growth(240, 190, 0.01, 0.0), ratio(240, 0.4)],
        ),
    ),
    "lag that fell": (
        "preconditioner lag",
        without("preconditioner lag", records=[growth(240, 150, -0.01, 0.02), ratio(240, 1.0)]),
    ),
    "lag, but v grows": (
        "preconditioner lag",
        without("preconditioner lag", decay_exponent=np.full(STEPS, -0.5)),
    ),
    "landscape that is flat": (
        "landscape",
        without("landscape", records=[growth(240, 150, 0.01, 0.0), ratio(240, 1.01)]),
    ),
    "a rate that stays": ("learning rate", without("learning rate", learning_rate=rate(1.1))),
    "a rate that fell": ("learning rate", without("learning rate", learning_rate=rate(0.1))),
    "a batch after a gradient that had grown": (
        "bad batch",
        without("bad batch", gradient_norm=grown_norm()),
    ),
    "a batch that only begins a rise": (
        "bad batch",
        without("bad batch", loss=np.where(np.arange(STEPS) < AT + 8, one_high(3.0), grown(at=AT + 8))),
    ),
    "a loss that stays": ("bad batch", without("bad batch", loss=stays())),
    "a loss that comes back": ("data change", without("data change", loss=one_high())),
    "data after a change of the rate": (
        "data change",
        without("data change", learning_rate=rate(10, AT - 1)),
    ),
    "data after another option": (
        "data change",
        without("data change", records=[change(AT - 1, "options", {"eps": 1e-8}, {"eps": 1e-4})]),
    ),
    "a batch in the tensors of the step before": ("bad batch", without("bad batch", records=[SAME])),
    "data in the tensors of the step before": ("data change", without("data change", records=[SAME])),
    "data of another length": ("data change", without("data change", batch_elements=lengths(3200))),
    "a size that is usual": ("batch shape", without("batch shape", batch_size=size(32))),
    "a resume with its state": ("lost optimizer state", without("lost optimizer state", records=[WARM])),
    "a resume long ago": (
        "lost optimizer state",
        without(
            "lost optimizer state", records=[change(100, "resume", RESUME[1]["before"], RESUME[1]["after"])]
        ),
    ),
    "parameters long ago": (
        "parameters changed",
        without(
            "parameters changed",
            records=[change(100, "parameters", {"groups": 1}, {"groups": 1, "new": 2, "gone": 0})],
        ),
    ),
    "an overflow after a rise": (
        "forward overflow",
        without("forward overflow", loss=np.where(np.arange(STEPS) < AT + 12, grown(), NAN)),
    ),
}


@pytest.mark.parametrize("name", NOT)
def test_a_cause_is_not_named_where_one_of_its_numbers_is_missing(name, tmp_path):
    cause, log = NOT[name]
    [first, *_] = explain_run(write(tmp_path, **log))
    assert cause not in {one.name for one in first.causes}, first.causes


def test_v_that_is_lost_while_the_count_goes_on_is_noticed(tmp_path):
    [found] = explain_run(write(tmp_path, loss=grown(), gradient_norm=grown_norm(), records=[COLD]))
    assert found.cause == "lost optimizer state"


@pytest.mark.parametrize("cause", ["bad batch", "data change"])
def test_a_log_of_every_fifth_step_shows_no_rise_within_a_step(cause, tmp_path):
    [found, *_] = explain_run(write(tmp_path, **RIGHT[cause], every=5))
    assert found.causes == ()
    assert "The log has every 5th step there" in found.missing[-1]


def test_the_exponent_follows_from_the_lag_where_it_was_not_logged(tmp_path):
    run = write(tmp_path, **ESTIMATED | {"decay_exponent": NAN, "instant_lag": 30.0})
    assert explain_run(run)[0].cause == "preconditioner lag"
    run = write(tmp_path / "short", **ESTIMATED | {"decay_exponent": NAN, "instant_lag": 2.0})
    assert not any("about" in one.words for one in explain_run(run)[0].causes)


def test_a_spike_without_any_of_it_is_not_explained(tmp_path):
    [found] = explain_run(write(tmp_path, loss=grown(), gradient_norm=grown_norm()))
    assert found.cause == "not explained"
    assert found.causes == ()
    assert "none of the tests holds" in found.advice[-1]


def test_two_causes_are_both_named(tmp_path):
    both = LAG | {
        "records": [growth(190, 150, 0.006, 0.005), growth(240, 190, 0.006, 0.005), ratio(240, 1.01)]
    }
    [found] = explain_run(write(tmp_path, **both))
    assert {one.name for one in found.causes} == {"preconditioner lag", "landscape"}


@pytest.mark.parametrize("cause", ["bad batch", "data change"])
@pytest.mark.parametrize(
    "records", [[SAME, REPLACED], [SAME, change(AT - 90, "resume", {"updates": 9}, {"updates": 9})]]
)
def test_data_that_may_be_others_are_blamed(cause, records, tmp_path):
    [found, *_] = explain_run(write(tmp_path, **without(cause, records=records)))
    assert found.cause == cause


@pytest.mark.parametrize(("exponent", "most"), [(0.95, 0.7), (0.5, 0.5)])
def test_lag_is_no_surer_than_holding_v_found_it_to_be(exponent, most, tmp_path):
    log = write(tmp_path, **without("preconditioner lag", decay_exponent=np.full(STEPS, exponent)))
    [found] = explain_run(log)
    assert found.causes[0].confidence <= most
    assert found.cause == "preconditioner lag"


# v falls by 1 % a step for a hundred steps, which makes 1/2 of its logarithm: 0.5 of ln(ratio).
FALLING = np.exp(-0.01 * np.clip(np.arange(STEPS) - 140, 0, 100))
ESTIMATED = LAG | {"second_moment": FALLING, "records": [ratio(140, 0.61), ratio(240, 1.01)]}


def test_without_a_measurement_along_the_eigenvector_the_sum_of_v_says_what_it_made(tmp_path):
    [found] = explain_run(write(tmp_path, **ESTIMATED))
    assert found.cause == "preconditioner lag"
    share = 0.5 / np.log(1.01 / 0.61)
    assert found.causes[0].facts[0].value == pytest.approx(share, rel=1e-2)
    assert f"about {100 * share:.0f} %" in found.causes[0].words


@pytest.mark.parametrize(
    "changed",
    [
        {"second_moment": np.ones(STEPS)},
        {"decay_exponent": np.full(STEPS, 0.5)},
        {"records": [ratio(140, 0.3), ratio(240, 0.5)]},
    ],
    ids=["v that stays", "v that does not only decay", "far from the edge"],
)
def test_the_sum_of_v_is_no_evidence_without_one_of_these(changed, tmp_path):
    [found] = explain_run(write(tmp_path, **ESTIMATED | changed))
    assert not any("about" in cause.words and cause.name == "preconditioner lag" for cause in found.causes)


def test_where_batches_differ_v_alone_is_no_evidence(tmp_path):
    blind = LAG | {"records": []}
    [found] = explain_run(write(tmp_path / "unknown", **blind))
    assert [one.confidence for one in found.causes] == [0.4]
    [found] = explain_run(write(tmp_path / "noisy", **blind | {"records": noise(0.2)}))
    assert found.causes == ()


def climbing_noise():
    """A mean-square ratio that triples over forty steps, to past the edge."""
    records = [("noise", {"step": AT - 50, "mean": 0.2, "variance": 0.1})]
    for at, typical in ((50, 0.3), (40, 0.4), (30, 0.5), (20, 0.7), (10, 0.9)):
        records.append(("forecast", {"step": AT - at, "typical_mean_square_ratio": typical, "lag": 4.0}))
    return {"loss": grown(), "gradient_norm": grown_norm(), "records": records}


@pytest.mark.parametrize(
    ("decay", "said", "postponed"),
    [
        (0.0, "v made about 0 % and the curvature of the batches 100 %", True),
        (2 * np.log(3) / 40, "v made about 100 % and the curvature of the batches 0 %", False),
        (1.2 * np.log(3) / 40, "v made about 60 % and the curvature of the batches 40 %", False),
        (-np.log(3) / 40, "v made about 0 % and the curvature of the batches 100 %", True),
    ],
    ids=["v that stays", "v that makes it all", "both", "v that grows"],
)
def test_the_climb_to_the_edge_of_noise_has_parts(decay, said, postponed, tmp_path):
    log = climbing_noise() | {"second_moment": np.exp(-decay * np.arange(STEPS))}
    [found] = explain_run(write(tmp_path, **log))
    [cause] = found.causes
    assert cause.name == "gradient noise"
    assert f"the ratio had risen 3-fold since step {AT - 50:,}, of which {said}" in cause.words
    assert any("may only postpone" in advice for advice in found.advice) is postponed


@pytest.mark.parametrize(
    "changed",
    [
        {"records": noise(0.9)},
        {"records": [*noise(0.85, before=40), *noise(0.9)]},
        {"second_moment": np.full(STEPS, np.nan)},
        {"second_moment": np.zeros(STEPS)},
        {"records": [*noise(1e-300, before=40), *noise(1e300)]},
    ],
    ids=["one reading", "it hardly rose", "v unknown", "no v", "beyond all numbers"],
)
def test_a_climb_that_is_not_known_has_no_parts(changed, tmp_path):
    log = climbing_noise() | {"second_moment": np.ones(STEPS)} | changed
    [found] = explain_run(write(tmp_path, **log))
    assert found.cause == "gradient noise"
    assert "risen" not in found.causes[0].words


def test_what_the_learning_rate_made_of_the_climb_to_the_edge_of_noise_is_said(tmp_path):
    slowly = np.geomspace(1.0, 1.25, STEPS)  # too little for a cause of its own
    log = climbing_noise() | {"second_moment": np.ones(STEPS), "learning_rate": 1e-3 * slowly}
    [found] = explain_run(write(tmp_path, **log))
    assert ", the learning rate " in found.causes[0].words


def test_past_the_edge_of_noise_other_data_are_blamed_second(tmp_path):
    beginning = stays(3.0)
    beginning[AT + 8 : AT + 23] = np.geomspace(3, 40, 15)
    log = RIGHT["data change"] | {"loss": beginning, "records": noise(0.9)}
    [found, *_] = explain_run(write(tmp_path, **log))
    assert [one.name for one in found.causes] == ["gradient noise", "data change"]
    assert found.causes[1].confidence == 0.5


@pytest.mark.parametrize(
    ("parts", "first"), [((0.008, 0.005), "preconditioner lag"), ((0.006, 0.0065), "landscape")]
)
def test_what_made_more_of_a_rise_comes_first(parts, first, tmp_path):
    records = [growth(190, 150, *parts), growth(240, 190, *parts), ratio(190, 0.57), ratio(240, 1.01)]
    [found] = explain_run(write(tmp_path, **LAG | {"records": records}))
    assert found.cause == first
    assert len(found.causes) == 2


def test_a_rate_that_rose_slowly_beside_a_bad_batch_is_not_blamed(tmp_path):
    warming = np.linspace(1e-4, 1e-3, STEPS)
    [found] = explain_run(write(tmp_path, **RIGHT["bad batch"] | {"learning_rate": warming}))
    assert [one.name for one in found.causes] == ["bad batch"]


@pytest.mark.parametrize(("gradient", "most"), [(9.0, 0.95), (np.inf, 0.5)])
def test_a_gradient_that_overflowed_makes_a_bad_batch_no_surer(gradient, most, tmp_path):
    """Weights that are too large overflow with any batch."""
    norm = spiky()
    norm[AT] = gradient
    [found] = explain_run(write(tmp_path, **RIGHT["bad batch"] | {"gradient_norm": norm}))
    assert [(one.name, one.confidence) for one in found.causes] == [("bad batch", pytest.approx(most))]


def test_a_new_group_with_a_higher_rate_is_no_rise_of_the_rate(tmp_path):
    added = change(
        AT - 2, "parameters", {"groups": 1, "tensors": 2}, {"groups": 2, "tensors": 4, "new": 2, "gone": 0}
    )
    [found] = explain_run(
        write(tmp_path, loss=grown(), gradient_norm=grown_norm(), learning_rate=rate(10), records=[added])
    )
    assert [one.name for one in found.causes] == ["parameters changed"]


def test_words_of_events_decide_nothing(tmp_path):
    words = (
        "event",
        {"step": AT - 1, "name": "misuse: cold resume", "message": "learning rate batch v decays"},
    )
    [found] = explain_run(write(tmp_path, loss=grown(), gradient_norm=grown_norm(), records=[words]))
    assert found.causes == ()


def test_the_examples_of_a_bad_batch_are_named(tmp_path):
    row = ("gradients", {"step": AT, "rows": [], "non_finite": [], "ids": [7, 9, "a.jpg"]})
    [found] = explain_run(write(tmp_path, **RIGHT["bad batch"] | {"records": [row]}))
    assert found.ids == (7, 9, "a.jpg")
    assert f"The examples of step {AT}: 7, 9, a.jpg." in found.advice


@pytest.mark.parametrize("cause", CAUSES)
def test_an_explanation_is_strict_json_and_text(cause, tmp_path):
    [found, *_] = explain_run(write(tmp_path, **RIGHT[cause]))
    import json

    read = json.loads(found.to_json(), parse_constant=pytest.fail)
    assert read["cause"] == cause
    assert read["recovery"]["outcome"] == found.recovery.outcome
    text = foreshock.explain.explanation_text(found)
    assert f"Cause: {cause} (" in text
    assert "What to do" in text


def far_from_the_edge(**more):
    """A log whose last measurement was far from the edge, before a gradient that grew from calm."""
    records = [ratio(100, 0.2), growth(100, 60, 0.0, 0.0), followed(240, 0.25)]
    norm = np.ones(STEPS)
    norm[AT - 4 : AT + 15] = np.geomspace(2, 4000, 19)
    norm[AT + 15 :] = 2
    return {"loss": grown(), "gradient_norm": norm, "records": records} | more


def followed(step, value):
    return "forecast", {"step": step, "stability_ratio": value, "measured": 100, "state": "stable"}


def test_a_gradient_that_grew_as_past_the_edge_blames_the_curvature_for_what_v_did_not_make(tmp_path):
    [found] = explain_run(write(tmp_path, **far_from_the_edge()))
    assert [one.name for one in found.causes] == ["landscape"]
    assert "to 0.25 by step 240" in found.causes[0].words


@pytest.mark.parametrize(
    "changed",
    [
        {"gradient_norm": np.ones(STEPS)},  # nothing grew
        {"records": []},  # nothing was measured
        {"records": [*far_from_the_edge()["records"], *noise(0.3)]},  # batches differ: one is not the edge
        {"records": [ratio(100, 0.2), growth(100, 60, 0.0, 0.0), followed(240, 0.89)]},  # v made it
    ],
)
def test_without_one_of_these_the_landscape_is_not_blamed(tmp_path, changed):
    [found, *_] = explain_run(write(tmp_path, **far_from_the_edge(**changed)))
    assert "landscape" not in {one.name for one in found.causes}


def test_past_the_edge_of_noise_a_batch_is_blamed_second(tmp_path):
    log = RIGHT["bad batch"] | {"gradient_norm": spiky(value=8.0)}
    [quiet] = explain_run(write(tmp_path / "quiet", **log))
    assert [one.name for one in quiet.causes] == ["bad batch"]
    [noisy] = explain_run(write(tmp_path / "noisy", **log, records=noise(0.9)))
    assert [one.name for one in noisy.causes] == ["gradient noise", "bad batch"]
