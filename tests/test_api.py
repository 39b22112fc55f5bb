"""The package as a user meets it: what an import costs, what a prompt shows, what ``help`` says."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pydoc
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import foreshock
from foreshock.guarding import Auto, Decision, GuardSignals
from foreshock.preconditioner import find_reader, read_preconditioner
from foreshock.representation import one_line, printable, short_repr

LONGEST = 300
SUBMODULES = [name for name in dir(foreshock) if name not in foreshock.__all__ and name[:2] != "__"]


def python(script: str) -> str:
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_import_brings_neither_torch_nor_numpy_and_neither_does_looking_around():
    script = """
import sys, foreshock
dir(foreshock), repr(foreshock), foreshock.__doc__, foreshock.__version__
print([name for name in ("torch", "numpy") if name in sys.modules])
foreshock.read_run, foreshock.stability, foreshock.spikes, foreshock.Forecast
print([name for name in ("torch",) if name in sys.modules])
"""
    assert python(script).split("\n") == ["[]", "[]", ""]


def test_submodules_are_there_after_import_foreshock_alone():
    script = f"""
import foreshock
print(foreshock.optim.GuardedAdamW.__name__)
print(*(getattr(foreshock, name).__name__ for name in {SUBMODULES}))
"""
    first, second = python(script).splitlines()
    assert first == "GuardedAdamW"
    assert second.split() == [f"foreshock.{name}" for name in SUBMODULES]
    assert {"curvature", "guarding", "optim", "report", "spikes", "stability"} <= set(SUBMODULES)


def test_everything_that_is_announced_is_there_and_a_star_import_brings_it():
    found: dict[str, object] = {}
    exec("from foreshock import *", found)  # noqa: S102 - what a notebook does
    assert set(foreshock.__all__) <= set(found)
    assert len(set(foreshock.__all__)) == len(foreshock.__all__)
    for name in foreshock.__all__:
        assert found[name] is getattr(foreshock, name)
    assert set(dir(foreshock)) >= {*foreshock.__all__, "optim", "__doc__", "__version__"}


def test_a_misspelt_name_is_an_error_that_says_where_to_look():
    with pytest.raises(
        AttributeError, match=r"no attribute 'sharpnes'; its names are listed by dir"
    ) as caught:
        foreshock.sharpnes  # noqa: B018
    # From these Python makes "Did you mean: 'sharpness'?".
    assert (caught.value.name, caught.value.obj) == ("sharpnes", foreshock)


def test_help_shows_every_public_name_and_nothing_private():
    shown = pydoc.render_doc(foreshock, renderer=pydoc.plaintext)
    assert foreshock.__version__ in shown
    for name, _ in public():
        assert name in shown
    assert "_HOME" not in shown
    assert "foreshock.guard(optimizer)" in shown


def public():
    return [(name, getattr(foreshock, name)) for name in foreshock.__all__ if name != "__version__"]


def documented():
    """Yield what a user calls: functions, classes, and the public methods and properties of the classes."""
    for name, item in public():
        yield name, item
        if inspect.isclass(item):
            for member in vars(item):
                if not member.startswith("_") and (
                    inspect.isfunction(vars(item)[member]) or isinstance(vars(item)[member], property)
                ):
                    yield f"{name}.{member}", vars(item)[member]


def of_submodules():
    """Yield the public functions of the submodules that are not the package's own."""
    for module in SUBMODULES:
        for name in (
            getattr(foreshock, module).__all__ if hasattr(getattr(foreshock, module), "__all__") else ()
        ):
            item = getattr(getattr(foreshock, module), name)
            if inspect.isfunction(item) and name not in foreshock.__all__:
                yield f"{module}.{name}", item


def _arguments(item) -> list[str]:
    function = item.fget if isinstance(item, property) else item
    names = list(inspect.signature(function).parameters)
    return [name for name in names if name != "self"]


def _raises(item) -> bool:
    """Return whether the body itself raises: what deeper functions raise is theirs to say."""
    function = item.fget if isinstance(item, property) else item
    if inspect.isclass(item):
        function = next((vars(item)[m] for m in ("__init__", "__post_init__") if m in vars(item)), None)
        if dataclasses.is_dataclass(item):
            function = vars(item).get("__post_init__")
    if function is None:
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


@pytest.mark.parametrize(("name", "item"), [*documented(), *of_submodules()])
def test_every_public_name_says_what_it_takes_returns_and_raises(name, item):
    text = inspect.getdoc(item) or ""
    assert text, name
    first = text.split("\n\n")[0]
    assert first.endswith((".", "’", '"', ":")), first
    arguments = _arguments(item)
    heading = "Attributes:" if dataclasses.is_dataclass(item) else "Args:"
    # Of one-argument protocol methods such as ``load_state_dict`` the first sentence says enough.
    if len(arguments) > 1 or (arguments and inspect.isclass(item)):
        assert heading in text
        for argument in arguments:
            explained = rf"^ +\*{{0,2}}{argument}(, \w+)*:|^ +\w+(, \w+)*, {argument}(, \w+)*:"
            assert re.search(explained, text, re.MULTILINE), f"{name} does not explain {argument}"
    if inspect.isfunction(item) and inspect.signature(item).return_annotation not in ("None", "Self"):
        assert text.startswith(("Return", "Yield")) or "Returns:" in text or "Yields:" in text
    if _raises(item):
        assert "Raises:" in text + str(inspect.getdoc(getattr(item, "__post_init__", None)))


MADE_BY_US = {
    # Records that Foreshock hands out: where they come from has the example.
    "Alarm", "BackendChoice", "BlockShare", "CurvatureReading", "Forecast", "Guard", "GuardAction",
    "GuardSummary", "LiveParameter", "MeanSquareStability", "NoiseReading", "Rewind", "Run", "SecondMoment",
    "Sharpness", "Snapshot", "SpectralDensity", "StepObservation", "ParameterStep",
}  # fmt: skip


@pytest.mark.parametrize(("name", "item"), [pair for pair in public() if pair[0] not in MADE_BY_US])
def test_what_a_user_calls_has_an_example_that_doctest_runs(name, item):
    assert ">>> " in (inspect.getdoc(item) or "")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Return one of each public record, from a training of 60 steps."""
    torch.manual_seed(0)
    x = torch.linspace(-3, 3, 64)[:, None]
    batch = (x, torch.sin(3 * x))
    model = torch.nn.Sequential(torch.nn.Linear(1, 40), torch.nn.Tanh(), torch.nn.Linear(40, 1))
    optimizer = foreshock.optim.GuardedAdamW(model.parameters(), lr=0.02)

    def loss_fn(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    folder, alarms = tmp_path_factory.mktemp("run"), []
    guard = optimizer.guard
    monitor = foreshock.Monitor(
        model, optimizer, loss_fn, run=folder, probe_every=5, guard=guard, on_alarm=alarms.append
    )
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        forecast = monitor.observe(batch, loss)
        optimizer.step()
    monitor.close()
    parts = [(x[i::4], batch[1][i::4]) for i in range(4)]
    parameter = model[0].weight
    live = foreshock.LiveParameter(
        parameter, parameter.grad, optimizer.state[parameter], optimizer.param_groups[0]
    )
    reader, sharpness = find_reader(optimizer), foreshock.sharpness(model, loss_fn, batch, count=4)
    return {
        "monitor": monitor,
        "guard": guard,
        "optimizer": optimizer,
        "forecast": forecast,
        "alarm": foreshock.Alarm(3, "watch", "stability ratio 0.97, edge", forecast, 1.2),
        "run": foreshock.read_run(folder),
        "sharpness": sharpness,
        "reading": foreshock.preconditioned_sharpness(model, optimizer, loss_fn, batch),
        "mean_square": foreshock.mean_square_stability(model, optimizer, loss_fn, parts),
        "spectrum": foreshock.spectrum(model, loss_fn, batch, probes=2, steps=20),
        "noise": foreshock.NoiseReading(1, 0.3, 0.01, 0.001, 19.0, 1e-3, 1e-2, 0.0, 2, 0.1),
        "micro_batches": foreshock.MicroBatches(parts),
        "blocks": sharpness.blocks[0],
        "backend": sharpness.backend,
        "stopping": foreshock.StoppingRule(),
        "live": live,
        "reader": reader,
        "step": reader.step(live),
        "second_moment": reader.second_moment(live.state, live.group),
        "preconditioner": read_preconditioner(optimizer),
        "observation": foreshock.StepObservation(1, 0.5, 0.1, 1e-3, 0.9, 0.1, 0.01, 0.02),
        "action": foreshock.GuardAction(7, "auto", "clip", "‖g‖ is 9.1 times its usual", 9.1, 4.0, 0.4),
        "summary": guard.summary(),
        "signals": GuardSignals(step=99, updates=100, secant=0.95),
        "decision": Decision("raise along", 1.1, "the secant is 0.99 of the edge", 0.99, 0.9),
        "policy": Auto(),
    }


def test_every_repr_and_str_fits_a_prompt(session):
    for name, item in session.items():
        if name != "optimizer":
            assert len(repr(item)) <= LONGEST, f"repr of {name}: {len(repr(item))} characters"
            assert "\n" not in repr(item)
            assert " object at 0x" not in repr(item)
            assert type(item).__name__ in repr(item)
        assert len(str(item)) <= LONGEST + 100, f"str of {name}"


def test_a_repr_shows_the_numbers_that_matter(session):
    reading, run, sharpness = session["reading"], session["run"], session["sharpness"]
    assert f"stability_ratio={reading.stability_ratio:.4g}" in repr(reading)
    assert f"{reading.stability_ratio:.4g}" in str(reading)
    assert f"value={sharpness.value:.4g}" in repr(sharpness)
    assert sharpness.blocks[0].name in str(sharpness)
    assert repr(run) == str(run)
    assert "steps 0–59, 1 session" in repr(run)
    assert "60 step" in repr(run)
    assert str(run.path) in repr(run)
    assert f"size={121}" in repr(session["spectrum"])
    assert "60 steps" in repr(session["monitor"])
    assert "<40×1 torch.float32>" in repr(session["step"])
    assert repr(session["optimizer"]).splitlines()[-1] == repr(session["guard"])
    assert "60 steps" in repr(session["guard"])
    assert "factor 0.4" in str(session["action"])


def test_a_run_without_records_prints_too():
    run = foreshock.Run(Path("runs/empty/rank0.jsonl"), starts=2)
    assert repr(run) == "<Run runs/empty/rank0.jsonl: no steps, 2 sessions, records: none>"


@dataclasses.dataclass
class Everything:
    number: float
    text: str = ""
    items: list[object] = dataclasses.field(default_factory=list)
    mapping: dict[str, object] = dataclasses.field(default_factory=dict)
    tensor: object = None
    call: object = None
    hidden: int = dataclasses.field(default=3, repr=False)
    __repr__ = short_repr


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (Everything(1 / 3), "Everything(number=0.3333, items=[], mapping={})"),
        (Everything(float("nan"), items=[1, 2, 3, 4]), "Everything(items=[1, 2, 3, … 1 more], mapping={})"),
        (Everything(1.0, mapping={"clip": 2}), "Everything(number=1, items=[], mapping={'clip': 2})"),
        (Everything(1.0, items=[[1]], tensor=torch.zeros(2, 3)),
         "Everything(number=1, items=<list of 1>, mapping={}, tensor=<2×3 torch.float32>)"),
        (Everything(1.0, tensor=torch.tensor(2.0)),
         "Everything(number=1, items=[], mapping={}, tensor=<scalar torch.float32>)"),
        (Everything(1, call=short_repr), "Everything(number=1, items=[], mapping={}, call=<short_repr>)"),
        (Everything(1, call=Everything(2)), "Everything(number=1, items=[], mapping={}, call=<Everything>)"),
        (Everything(1.0, hidden=4), "Everything(number=1, items=[], mapping={})"),
    ],
)  # fmt: skip
def test_a_short_repr_shows_each_kind_of_value(record, shown):
    assert repr(record) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("é – λ_max ×", "é – λ_max ×"),
        ("\x1b[2J\x07\x9b1m", r"\x1b[2J\x07\x9b1m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff", r"\udcff"),
        ("two\n  lines\t", r"two\n  lines\t"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text, shown):
    assert printable(text) == shown
    assert one_line(text) == " ".join(shown.replace(r"\n", " ").replace(r"\t", " ").split())


def test_a_short_repr_ends_before_a_line_is_full():
    many = dataclasses.make_dataclass(
        "Many", [(f"a_field_with_a_name_{i}", float) for i in range(40)], namespace={"__repr__": short_repr}
    )
    shown = repr(many(*range(40)))
    assert shown.endswith(", …)")
    assert 200 < len(shown) <= LONGEST
    assert "…" in repr(Everything(1.0, text="x" * 500))
    assert len(repr(Everything(1.0, text="x" * 500))) < 150
