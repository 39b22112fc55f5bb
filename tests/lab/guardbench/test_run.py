"""A suite that is interrupted goes on, and what has changed is trained anew."""

from __future__ import annotations

import dataclasses
import importlib
import sys

import pytest

from foreshock.lab.guardbench import run as running
from foreshock.lab.guardbench.methods import METHODS, method
from foreshock.lab.guardbench.run import (
    Trial,
    code_hash,
    is_done,
    left_out,
    load_result,
    result_path,
    run_suite,
    trials_of,
)
from foreshock.lab.guardbench.suite import SECTIONS
from foreshock.lab.spikebench.suite import DEVELOPMENT, adam, configure
from foreshock.lab.tasks.cifar import CIFAR10_VARIABLE

TINY = configure(DEVELOPMENT, "mlp-tiny", adam(0.02), 5, 30, points=20, width=8)


def trials(*names):
    return [Trial(TINY, 0, method(name)) for name in names]


def test_an_interrupted_suite_goes_on_where_it_stopped(tmp_path):
    done = []
    some, all_of_them = trials("adam"), trials("adam", "amsgrad")
    run_suite(some, tmp_path, on_done=lambda path: done.append(path.name))
    paths = run_suite(all_of_them, tmp_path, on_done=lambda path: done.append(path.name))
    assert done == ["mlp-tiny-0-adam.json", "mlp-tiny-0-amsgrad.json"]
    assert paths == [tmp_path / name for name in done]
    assert not list(tmp_path.glob("partial-*"))


def test_changed_settings_are_trained_anew(tmp_path):
    [trial] = trials("adam")
    run_suite([trial], tmp_path)
    for changed in (
        dataclasses.replace(TINY, steps=31),
        dataclasses.replace(TINY, precision="bfloat16"),
        dataclasses.replace(TINY, outliers=0.1),
    ):
        assert result_path(tmp_path, dataclasses.replace(trial, config=changed)).exists()
        assert not is_done(tmp_path, dataclasses.replace(trial, config=changed))
    assert is_done(tmp_path, trial)


def test_the_code_of_a_method_counts_but_not_its_comments(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    hashes = []
    for text in ("x = 1", '"""Say."""\n# more\nx   = 1', "x = 2"):
        (tmp_path / "made_up_rule.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("made_up_rule", None)
        code_hash.cache_clear()
        hashes.append(code_hash(("made_up_rule",)))
    assert hashes[0] == hashes[1] != hashes[2]
    assert code_hash(("no_such_module_here",)) != hashes[0]


def test_a_package_counts_with_all_its_modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "made_up_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("x = 1")
    code_hash.cache_clear()
    before = code_hash(("made_up_package",))
    (package / "inner.py").write_text("x = 2")
    code_hash.cache_clear()
    assert code_hash(("made_up_package",)) != before


def test_a_result_holds_what_was_trained_and_what_came_of_it(tmp_path):
    [path] = run_suite(trials("adam"), tmp_path)
    read = load_result(path)
    about = {name: read[name] for name in ("config", "seed", "method", "split", "family", "group", "steps")}
    assert about == {
        "config": "mlp-tiny",
        "seed": 0,
        "method": "adam",
        "split": "development",
        "family": "mlp",
        "group": "mini",
        "steps": 30,
    }
    assert read["spikes"] == []
    assert 0 < read["mean_loss"] < 2
    assert path.stat().st_size < 1000


def test_infinite_heights_survive(tmp_path):
    wild = dataclasses.replace(TINY, steps=300, optimizer=adam(1e-4, schedule="constant"))
    blown = dataclasses.replace(method("adam"), intervene=lambda subject: _Bomb(subject))
    [path] = run_suite([Trial(wild, 0, blown)], tmp_path)
    assert load_result(path)["spikes"] == [float("inf")]
    assert load_result(path)["diverged"] is True


class _Bomb:
    passes = 0.0

    def __init__(self, subject):
        self.subject, self.steps = subject, 0

    def before_step(self, batch, loss):
        self.steps += 1
        if self.steps == 200:
            for parameter in self.subject.model.parameters():
                parameter.data.fill_(float("nan"))

    def after_step(self):
        return False

    def close(self):
        pass

    def buffers(self):
        return None


def test_the_suites_have_their_seeds_and_every_method(monkeypatch):
    monkeypatch.delenv(CIFAR10_VARIABLE, raising=False)
    full = trials_of("full", split="development")
    assert {trial.seed for trial in full} == {0, 1, 2}
    assert {trial.seed for trial in trials_of("quick")} == {0}
    assert {trial.config.split for trial in full} == {"development"}
    assert [trial.method for trial in full[: len(METHODS)]] == list(METHODS)
    assert not any(trial.config.options.get("data") == "cifar10" for trial in trials_of("full"))
    assert set(left_out("full")) >= {"cnn-cifar", "cnn-cifar-batch-25-high"}
    assert left_out("full", split="development") == []
    monkeypatch.setenv(CIFAR10_VARIABLE, "somewhere")
    assert any(trial.config.options.get("data") == "cifar10" for trial in trials_of("full"))


@pytest.mark.slow
def test_several_processes_make_the_same_results(tmp_path, monkeypatch):
    chosen = [trial for trial in trials_of("quick") if trial.config.name == "pinn-quick-slow"][:2]
    alone = [load_result(path) for path in run_suite(chosen, tmp_path / "one")]
    together = [load_result(path) for path in run_suite(chosen, tmp_path / "two", jobs=2)]
    for one, other in zip(alone, together, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_at_least_one_process_is_needed(tmp_path):
    with pytest.raises(ValueError, match="at least one process"):
        run_suite([], tmp_path, jobs=0)


def test_methods_are_trained_by_name_in_other_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "suite", lambda size: (TINY,) if size == "full" else ())
    path = running._train_named("mlp-tiny", 0, "amsgrad", 2, tmp_path)
    assert (load_result(path)["method"], load_result(path)["start"]) == ("amsgrad", 2)


def test_each_start_is_a_training_of_its_own_and_the_first_is_the_plain_one(tmp_path):
    [plain] = trials("adam")
    others = [dataclasses.replace(plain, start=start) for start in (1, 2)]
    paths = run_suite([plain, *others], tmp_path)
    assert [path.stem for path in paths] == ["mlp-tiny-0-adam", "mlp-tiny-0.1-adam", "mlp-tiny-0.2-adam"]
    losses = [load_result(path)["mean_loss"] for path in paths]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)  # 30 steps are too few to part
    assert len({trial.fingerprint for trial in [plain, *others]}) == 3


def test_adam_and_the_guards_are_trained_from_perturbed_starts_and_the_others_once():
    chosen = [method(name) for name in ("adam", "amsgrad", "guard-alone")]
    found = trials_of("quick", split="development", methods=chosen, starts=3)
    tasks = {trial.config.name for trial in found}
    assert {(trial.method.name, trial.start) for trial in found} == {
        ("amsgrad", 0),
        *((name, start) for name in ("adam", "guard-alone") for start in range(4)),
    }
    # Whatever is trained first, all tasks have it before any has more.
    assert [trial.start for trial in found] == sorted(trial.start for trial in found)
    assert len(found) == len(tasks) * (3 + 3 * 2)


def test_a_part_of_the_suite_can_be_chosen():
    disturbed = trials_of("full", sections=["disturbed"], seeds=1, methods=[method("adam")])
    assert {trial.config.category for trial in disturbed} == {"outliers", "bfloat16"}
    assert {trial.seed for trial in disturbed} == {0}
    parts = [trials_of("full", sections=[one], methods=[method("adam")]) for one in SECTIONS]
    names = [trial.name for part in parts for trial in part]
    assert sorted(names) == sorted(trial.name for trial in trials_of("full", methods=[method("adam")]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": 4}, "seeds is 4; of 1 to 3"),
        ({"starts": -1}, "starts is -1"),
        ({"sections": ["whole"]}, "no group 'whole'; there are full, mini"),
    ],
)
def test_an_impossible_part_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        trials_of("full", **wrong)
