"""What the suites hold: splits, groups, rates."""

import dataclasses
import itertools

import pytest

from foreshock.lab.guardbench.drawn import RANGES, draw
from foreshock.lab.guardbench.suite import SUITES, both_rates, suite
from foreshock.lab.spikebench import suite as spikebench
from foreshock.lab.spikebench.suite import DEVELOPMENT, adam, configure
from foreshock.lab.tasks import FAMILIES
from foreshock.lab.tasks.cifar import CIFAR10_VARIABLE

SPLITS = {"development", "held-out"}
both = pytest.mark.parametrize("size", SUITES)


def settings(config):
    plain = dict(config.options), dataclasses.asdict(config.optimizer), config.batch_size
    return config.family, *plain, config.precision, config.outliers


@both
def test_names_are_unique_and_usable_as_file_names(size):
    names = [config.name for config in suite(size)]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


def test_every_family_and_group_is_on_both_sides():
    full = suite()
    unseen = {config.family for config in spikebench.suite("test")}
    families = {*FAMILIES, "outliers", "bfloat16", "control"} - {"anchors"} - unseen
    assert {(c.category, c.split) for c in full} == set(itertools.product(families, SPLITS))
    assert {(c.group, c.split) for c in full} == set(itertools.product(("full", "mini", "language"), SPLITS))


def test_the_halves_are_balanced():
    sides = [c.split for c in suite() if c.available or c.options.get("data") == "cifar10"]
    assert abs(sides.count("development") - sides.count("held-out")) <= 6


def test_both_rates_of_a_task_are_on_the_same_side():
    sides = {}
    for config in suite():
        sides.setdefault(config.name.removesuffix("-high"), set()).add(config.split)
    assert all(len(found) == 1 for found in sides.values())
    assert sum(config.rate == "high" for config in suite()) > 20


def test_what_the_quick_suite_holds_out_is_not_developed_on_in_the_full_one():
    for one, other in itertools.product(suite("quick"), suite("full")):
        if settings(one) == settings(other):
            assert one.split == other.split, (one.name, other.name)


def test_the_settings_that_guards_were_designed_on_are_development():
    designed = {
        "mlp-sines",
        "cnn-digits",
        "transformer-rules",
        "cnn-batch-25",
        "mlp-batch-25",
        "language-byte",
    }
    assert {c.split for c in suite() if c.name in designed} == {"development"}


@both
def test_every_configuration_can_be_built_and_has_examples_to_validate_on(size):
    for config in suite(size):
        if config.available:
            task = config.build_task(0)
            assert task.validation is not None, config.name
            assert config.steps > 200, "a running median of 100 steps must be able to judge most of the run"


def test_the_high_rate_is_a_multiple_of_the_base_rate():
    base, high = both_rates(configure(DEVELOPMENT, "mlp-x", adam(0.01), None, 300), times=4)
    assert (base.rate, high.rate) == ("base", "high")
    assert high.optimizer.learning_rate == pytest.approx(0.04)
    assert high.name == "mlp-x-high"


def test_cifar_is_left_out_where_it_is_not(monkeypatch):
    [config] = [config for config in suite() if config.name == "cnn-cifar"]
    monkeypatch.delenv(CIFAR10_VARIABLE, raising=False)
    assert not config.available
    monkeypatch.setenv(CIFAR10_VARIABLE, "somewhere")
    assert config.available


def test_unknown_suite():
    with pytest.raises(ValueError, match="no suite 'huge'; there are full, quick, normalised"):
        suite("huge")


def test_the_suite_with_batch_normalisation_has_full_and_mini_batches_on_both_sides():
    found = {(c.group, c.split) for c in suite("normalised") if c.options["batch_norm"]}
    assert found == set(itertools.product(("full", "mini"), SPLITS))
    assert {c.batch_size for c in suite("normalised")} == {None, 25, 128}


def test_what_is_drawn_is_the_same_each_time_and_of_all_kinds():
    configs = suite("drawn")
    groups = ("full", "mini", "language")
    assert {(c.group, c.split) for c in configs} == set(itertools.product(groups, SPLITS))
    assert {c.family for c in configs} == set(RANGES)
    assert [c.name for c in configs[:2]] == ["mlp-drawn-000", "cnn-drawn-001"]
    first, second = configs[0].optimizer, configs[1].optimizer
    assert (first.learning_rate, first.betas) == (pytest.approx(0.0132462, rel=1e-4), (0.9, 0.999))
    assert (second.learning_rate, configs[1].batch_size) == (pytest.approx(0.0081628, rel=1e-4), 25)
    assert draw("cnn", DEVELOPMENT, 1) == configs[1]


def test_drawn_rates_are_within_five_times_the_usual_one():
    for config in suite("drawn"):
        usual = RANGES[config.family].rate
        assert usual <= config.optimizer.learning_rate <= 5 * usual
        assert (config.optimizer.weight_decay > 0) == RANGES[config.family].decays
