import dataclasses
import itertools
from collections import Counter

import pytest
import torch

from foreshock.lab.guardbench import suite as guardbench
from foreshock.lab.spikebench.run import runs_of
from foreshock.lab.spikebench.suite import SEEDS, SUITES, suite
from foreshock.lab.tasks import FAMILIES, Training, build_optimizer, build_scheduler, build_task

SPLITS = ("development", "held-out")
TEXT = ("language", "addition", "experts", "gru", "mixer", "statespace")
both = pytest.mark.parametrize("size", ["full", "quick"])
every = pytest.mark.parametrize("size", SUITES)


def some(configs, **fields):
    return [
        config for config in configs if all(getattr(config, name) == value for name, value in fields.items())
    ]


def families(*names):
    return {config.family for name in names for config in suite(name)}


@every
def test_names_are_unique_and_usable_as_file_names(size):
    names = [config.name for config in suite(size)]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


def test_every_family_is_on_both_sides_of_the_split():
    assert {(c.family, c.split) for c in some(suite(), role="spiky")} == set(
        itertools.product(set(FAMILIES) - {"anchors", "value"} - families("test"), SPLITS)
    )


@both
def test_every_kind_and_role_is_on_both_sides_of_the_split(size):
    found = {(c.kind, c.role, c.split) for c in suite(size)}
    wanted = set(itertools.product(("full", "mini"), ("spiky",), SPLITS))
    assert wanted <= found
    assert {(c.role, c.split) for c in suite(size)} == set(itertools.product(("spiky", "control"), SPLITS))


def test_controls_of_the_full_suite_have_both_kinds_on_both_sides():
    controls = some(suite(), role="control")
    assert {(c.kind, c.split) for c in controls} == set(itertools.product(("full", "mini"), SPLITS))


def test_the_full_suite_is_as_large_as_its_counts_need():
    full = suite("full")
    assert len(SEEDS) == 3
    assert len(some(full, role="spiky", kind="mini")) >= 12
    assert len(some(full, role="control")) >= 9
    assert len(some(full, role="control")) * len(SEEDS) >= 25
    assert len(some(full, role="spiky", language=True)) >= 5


def test_the_full_suite_spans_optimizers_betas_schedules_and_batch_sizes():
    spiky = some(suite(), role="spiky")
    assert {c.optimizer.name for c in spiky} == {"adam", "adamw"}
    assert {c.optimizer.schedule for c in spiky} >= {"constant", "warmup", "cosine"}
    first, second = zip(*(c.optimizer.betas for c in spiky), strict=True)
    assert min(first) == 0
    assert max(first) == 0.95
    assert min(second) <= 0.9
    assert max(second) == 0.9999
    assert sum(beta == 0.999 for beta in second) > len(spiky) / 2
    assert min(c.batch_size for c in spiky if c.batch_size) == 8


def test_what_the_quick_suite_holds_out_is_not_developed_on_in_the_full_one():
    def settings(config):
        return config.family, dict(config.options), config.optimizer, config.batch_size

    for one, other in itertools.product(suite("quick"), suite("full")):
        if settings(one) == settings(other):
            assert one.split == other.split, (one.name, other.name)


@every
def test_kind_and_language_say_what_the_run_is(size):
    for config in suite(size):
        assert (config.kind == "full") == (config.batch_size is None)
        assert config.language == (config.family in TEXT)


@both
def test_every_configuration_can_be_built_and_takes_a_step(size):
    for config in suite(size):
        task = build_task(config.family, batch_size=config.batch_size, seed=0, **config.options)
        optimizer = build_optimizer(task.model, config.optimizer)
        build_scheduler(optimizer, config.optimizer, config.steps)
        task.loss_fn(task.model, next(task.batches)).backward()
        optimizer.step()
        assert config.steps > 200, "a running median of 100 steps must be able to judge most of the run"


@pytest.mark.parametrize("config", suite("test"), ids=lambda config: config.name)
def test_every_test_configuration_trains(config):
    training = Training(dataclasses.replace(config, steps=3), 0)
    before = torch.nn.utils.parameters_to_vector(training.model.parameters()).clone()
    steps = list(training.run())
    assert len(steps) == 3
    assert all(step.finite for step in steps)
    assert not torch.equal(torch.nn.utils.parameters_to_vector(training.model.parameters()), before)
    assert config.steps > 200, "a running median of 100 steps must be able to judge most of the run"


def test_the_test_split_has_families_that_nothing_was_developed_or_looked_at_on():
    # The drawn tasks of GuardBench have them: they came after the split was scored.
    others = set(guardbench.SUITES) - {"drawn"}
    guarded = {config.family for name in others for config in guardbench.suite(name)}
    assert families("test").isdisjoint(families("full", "quick") | guarded)
    assert {config.split for config in suite("test")} == {"test"}
    assert {config.split for config in suite("full")} == set(SPLITS)


def test_no_loss_of_the_test_split_is_one_of_the_others_but_cross_entropy_on_text():
    def losses(*names):
        found = {}
        for config in itertools.chain(*map(suite, names)):
            task = build_task(config.family, batch_size=config.batch_size, seed=0, **config.options)
            found.setdefault(task.loss_fn, set()).add(config.family)
        return found

    shared = losses("test").keys() & losses("quick", "full").keys()
    assert {loss.__name__ for loss in shared} <= {"cross_entropy"}
    assert all(losses("test")[loss] <= set(TEXT) for loss in shared)


def test_the_test_split_is_as_large_as_its_counts_need():
    test = suite("test")
    spiky, controls = some(test, role="spiky"), some(test, role="control")
    assert len(spiky) >= 14
    assert len({config.family for config in spiky}) >= 7
    assert len(controls) >= 6
    groups = Counter(config.group for config in spiky)
    assert groups["full"] >= 4
    assert groups["mini"] >= 5
    assert groups["language"] >= 4
    assert 2 * len({config.family for config in controls}) >= len({config.family for config in spiky})
    assert len(runs_of("test")) == len(SEEDS) * len(test)


def test_a_control_of_the_test_split_is_a_spiky_one_but_for_its_rate_or_its_memory():
    spiky = some(suite("test"), role="spiky")
    for control in some(suite("test"), role="control"):
        [twin] = [
            config
            for config in spiky
            if (config.family, config.batch_size, config.options)
            == (control.family, control.batch_size, control.options)
        ]
        rate, betas = control.optimizer.learning_rate, control.optimizer.betas
        slow = rate == pytest.approx(twin.optimizer.learning_rate / 10)
        changed = {"learning_rate": rate} if slow else {"betas": betas}
        assert slow or betas[1] == 0.95
        assert control.optimizer == dataclasses.replace(twin.optimizer, **changed)


def test_options_cannot_be_changed():
    with pytest.raises(TypeError, match="does not support item assignment"):
        suite()[0].options["width"] = 3


def test_unknown_suite():
    with pytest.raises(ValueError, match="no suite 'huge'; there are 'full', 'quick', 'test'"):
        suite("huge")
