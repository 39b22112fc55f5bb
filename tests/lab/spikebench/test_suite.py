import itertools

import pytest

from foreshock.lab.spikebench.suite import SEEDS, suite
from foreshock.lab.tasks import FAMILIES, build_optimizer, build_scheduler, build_task

SPLITS = ("development", "held-out")
both = pytest.mark.parametrize("size", ["full", "quick"])


def some(configs, **fields):
    return [
        config for config in configs if all(getattr(config, name) == value for name, value in fields.items())
    ]


@both
def test_names_are_unique_and_usable_as_file_names(size):
    names = [config.name for config in suite(size)]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


def test_every_family_is_on_both_sides_of_the_split():
    assert {(c.family, c.split) for c in some(suite(), role="spiky")} == set(
        itertools.product(set(FAMILIES) - {"anchors", "value"}, SPLITS)
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


@both
def test_kind_and_language_say_what_the_run_is(size):
    for config in suite(size):
        assert (config.kind == "full") == (config.batch_size is None)
        assert config.language == (config.family in ("language", "addition"))


@both
def test_every_configuration_can_be_built_and_takes_a_step(size):
    for config in suite(size):
        task = build_task(config.family, batch_size=config.batch_size, seed=0, **config.options)
        optimizer = build_optimizer(task.model, config.optimizer)
        build_scheduler(optimizer, config.optimizer, config.steps)
        task.loss_fn(task.model, next(task.batches)).backward()
        optimizer.step()
        assert config.steps > 200, "a running median of 100 steps must be able to judge most of the run"


def test_options_cannot_be_changed():
    with pytest.raises(TypeError, match="does not support item assignment"):
        suite()[0].options["width"] = 3


def test_unknown_suite():
    with pytest.raises(ValueError, match="no suite 'huge'; there are 'full' and 'quick'"):
        suite("huge")
