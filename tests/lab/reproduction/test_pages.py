"""Results survive being kept, runs resume, and pages say what the results say."""

import dataclasses
import math

import pytest

from foreshock.lab.reproduction.experiment import Claim, Experiment, Outcome
from foreshock.lab.reproduction.experiments import EXPERIMENTS
from foreshock.lab.reproduction.filling import fill
from foreshock.lab.reproduction.page import EXPLORATION, PICTURES, publish, write_page
from foreshock.lab.reproduction.page_parts import table
from foreshock.lab.reproduction.results import Result, load_result, load_results, save_result
from foreshock.lab.reproduction.runner import OUTCOME, Order, run_order

RESULT = Result(
    experiment="interventions",
    scale="cpu",
    settings={"steps": 3},
    command="foreshock reproduce interventions",
    seeds=[0, 1],
    measured={
        "epsilon-0.1: removed": [1.0, 1.0],
        "epsilon-0.1: peak": [1.2, math.inf],
        "beta2-0.9: removed": [0.25, math.nan],
        "alarms": [4.0, 5.0],
    },
    notes=["A note."],
    seconds=[60.0, 90.0],
    machine="a machine",
)


def test_a_result_survives_being_kept(tmp_path):
    path = save_result(RESULT, tmp_path)
    assert path == tmp_path / "cpu" / "interventions.json"
    kept = load_result(path)
    assert kept.values("epsilon-0.1: peak") == [1.2, math.inf]
    assert math.isnan(kept.values("beta2-0.9: removed")[1])
    assert kept.median("beta2-0.9: removed") == 0.25
    assert math.isnan(kept.median("nothing"))
    assert dataclasses.replace(kept, measured={}) == dataclasses.replace(RESULT, measured={})
    assert list(load_results(tmp_path, "cpu")) == ["interventions"]


@pytest.mark.parametrize("content", ["no json", "[]", '{"measured": {}}'])
def test_a_file_that_is_no_result(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"x.json is no result of a reproduction .*run the experiment again"):
        load_result(path)


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: int = 3
    path: str | None = None


def experiment(ran):
    def run(config, seed, folder, on_step):
        ran.append(seed)
        on_step(1, 1)
        return Outcome({"value": seed + config.steps}, (f"Seed {seed % 1}.",))

    claim = Claim("value", "It is large.", "value", "at least", 3, 3)
    return Experiment("toy", "A toy", "None.", {"cpu": Settings()}, run, (claim,), lambda f, t: [], {})


def test_seeds_that_are_there_are_not_run_again(tmp_path):
    ran, told = [], []

    def start(name, seed):
        return lambda done, total: told.append((name, seed))

    order = Order(experiment(ran), "cpu", Settings(), range(2), tmp_path, "cmd")
    first = run_order(order, start=start)
    more = run_order(dataclasses.replace(order, seeds=range(3)), start=start)
    assert ran == [0, 1, 2]
    assert told == [("toy", 0), ("toy", 1), ("toy", 2)]
    assert (first.values("value"), more.values("value")) == ([3, 4], [3, 4, 5])
    assert more.notes == ["Seed 0."]
    run_order(dataclasses.replace(order, config=Settings(4)), start=start)
    assert ran == [0, 1, 2, 0, 1]


def test_a_result_does_not_say_where_a_file_lay(tmp_path):
    config = Settings(path=str(tmp_path / "images.tar.xz"))
    order = Order(experiment([]), "cpu", config, range(1), tmp_path, "cmd")
    result = run_order(order, start=lambda name, seed: lambda done, total: None)
    assert result.settings == {"steps": 3, "path": "images.tar.xz"}


def test_an_interrupted_seed_is_run_anew(tmp_path):
    ran = []
    order = Order(experiment(ran), "cpu", Settings(), range(1), tmp_path, "cmd")
    left = order.seed_folder(0)
    left.mkdir(parents=True)
    (left / "rank0.jsonl").write_text("torn")
    run_order(order, start=lambda name, seed: lambda done, total: None)
    assert ran == [0]
    assert [file.name for file in left.iterdir()] == [OUTCOME]


def test_the_page_says_what_the_results_say(tmp_path):
    kept, target = tmp_path / "results", tmp_path / "docs"
    save_result(RESULT, kept)
    (target / PICTURES).mkdir(parents=True)
    (target / PICTURES / "interventions-forks.png").write_bytes(b"")
    page, principles = publish(kept, "cpu", target)
    text = page.read_text()
    assert "| `cnn` | – | – | – | – | not run |" in text
    assert "[`interventions`](#reproduce-interventions) | 1 | 0 | 1 | 4 | 2.5 min |" in text
    assert (
        "`foreshock reproduce interventions`: seeds 0, 1, 60, 90 s of processor time. A note. a machine."
        in text
    )
    row = next(line for line in text.splitlines() if line.startswith("| Lowering β₂ to 0.9 "))
    assert "| 0.25 / – | **not confirmed** |" in row
    assert "| epsilon-0.1 | 1 | ∞ |" in text
    assert "| alarms | 4 / 5 |" in text
    assert "(images/reproduction/interventions-forks.png)" in text
    assert "{{" not in principles.read_text()


def test_the_page_counts_what_the_explored_seeds_gave(tmp_path):
    kept = tmp_path / "results"
    save_result(RESULT, kept)
    [page, _] = publish(kept, "cpu", tmp_path / "docs")
    row = next(line for line in page.read_text().splitlines() if line.startswith("| [`interventions`]"))
    assert row.endswith("| 2.5 min | – |")
    assert "What was fixed when" not in page.read_text()
    save_result(RESULT, kept / EXPLORATION)
    publish(kept, "cpu", tmp_path / "docs")
    row = next(line for line in page.read_text().splitlines() if line.startswith("| [`interventions`]"))
    counts = row.split(" | ")[1:5]
    assert row.endswith(f"| 2.5 min | {' / '.join(counts)} |")
    assert "What was fixed when" in page.read_text()


def test_pages_need_results(tmp_path):
    with pytest.raises(ValueError, match=r"no results in .*run foreshock reproduce NAME"):
        publish(tmp_path, "cpu", tmp_path)


def test_fields_of_a_template():
    results = {"interventions": RESULT}
    template = (
        "{{interventions | epsilon-0.1: removed | %}} {{interventions|alarms}} {{ cnn | spikes }} "
        "{{interventions | epsilon-0.1: removed | verdict}} {{interventions | alarms | seeds}}"
    )
    assert fill(template, results) == "100 % 4.5 – confirmed 4 / 5"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("gan | x", "names no experiment; there are quadratic"),
        ("interventions | alarms | percent", "unknown form"),
        ("interventions | alarms | verdict", "interventions has no such claim"),
    ],
)
def test_wrong_fields_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        fill("{{" + field + "}}", {"interventions": RESULT})


def test_every_field_of_the_principles_names_something_that_is_measured_or_claimed():
    from importlib.resources import files

    template = (
        files("foreshock.lab.reproduction").joinpath("templates/principles.md").read_text(encoding="utf-8")
    )
    assert "{{" in template
    fill(template, {})
    assert set(EXPERIMENTS) >= {"interventions"}


def test_a_table_escapes_what_would_end_a_cell():
    assert table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


def test_the_middle_scale_stands_beside_the_cpu_scale(tmp_path):
    kept, docs = tmp_path / "results", tmp_path / "docs"
    cause = dataclasses.replace(
        RESULT, experiment="cause", seeds=[0, 1], measured={"transformer: share": [0.04, 0.05]}
    )
    medium = dataclasses.replace(
        RESULT,
        experiment="transformer",
        scale="medium",
        command="foreshock reproduce transformer --scale medium",
        measured={"share": [0.9, 0.95], "spikes": [3.0, 2.0], "robust": [2.0, 2.0]},
    )
    words = dataclasses.replace(medium, experiment="llm-words", measured={"spikes": [0.0, 0.0]})
    for result in (cause, medium, words):
        save_result(result, kept)
    [page, _] = publish(kept, "cpu", docs)
    text = page.read_text()
    assert (
        "[`transformer`, middle scale](#reproduce-transformer-medium) | 2 | 0 | 0 | 7 | 2.5 min | – |" in text
    )
    row = next(
        line for line in text.splitlines() if line.startswith("| Decay of the preconditioner, not the")
    )
    assert "| 0.04 / 0.05 | not confirmed | 0.9 / 0.95 | **confirmed** |" in text
    assert row.count("|") in (5, 7)
    assert "| robust | 2 / 2 |" in text
    assert "(reproduce-llm-words-medium)=" in text
    assert "0.04 / 0.05 (Transformer) and – / – (bytes) of the rise of ln λ_max(Ĥ); 0.9 / 0.95, –." in text
    assert "{{" not in text
    assert publish(kept, "medium", docs)[0].read_text() == text
    assert "--scale medium`: seeds 0, 1" in text
    with pytest.raises(ValueError, match="no result to write a page of"):
        write_page({}, {}, tmp_path / "x.md", kept="k", pictures=docs)
