"""What README.md shows runs unchanged: every Python block, every command, every link."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

import foreshock

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = ("demo", "report", "curvature", "bench", "reproduce")
TRAIN = '''
"""What a user's train.py could be."""
import torch

def factory():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1))
    return model, loss_fn, torch.optim.Adam(model.parameters(), lr=0.01)

def loss_fn(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()

def batches():
    x = torch.linspace(-3, 3, 64)[:, None]
    return [(x, torch.sin(3 * x))]
'''


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block(heading: str) -> str:
    """Return the first Python block below a heading."""
    [after] = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    return re.search(r"^```python\n(.*?)^```$", after, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Return what the blocks presuppose: a tiny model, its optimizer, its loss and a loader; in a folder."""
    monkeypatch.chdir(tmp_path)
    user: dict[str, object] = {}
    exec(TRAIN, user)  # noqa: S102
    model, loss_fn, optimizer = user["factory"]()
    [batch] = user["batches"]()
    return {
        "model": model,
        "optimizer": optimizer,
        "loss_fn": loss_fn,
        "batch": batch,
        "loader": [batch] * 40,
        "foreshock": foreshock,
    }


def test_the_readme_has_just_the_python_blocks_that_are_run_here():
    assert len(blocks("python")) == 3


def test_the_ten_lines_are_ten_train_and_leave_a_log_that_the_two_reports_read(names):
    lines = block("Ten lines")
    assert len([line for line in lines.splitlines() if line.strip()]) == 10
    before = [p.detach().clone() for p in names["model"].parameters()]
    exec(lines, names)  # noqa: S102 - the README's own code
    assert any(not torch.equal(p, q) for p, q in zip(names["model"].parameters(), before, strict=True))
    assert isinstance(names["forecast"], foreshock.Forecast)
    names["monitor"].close()
    run = foreshock.read_run("runs/base")
    assert run.steps("step").tolist() == list(range(40))
    for command in ("foreshock report --text runs/base", "foreshock report runs/base"):
        assert f"`{command}`" in README
        shown = subprocess.run(
            [sys.executable, "-m", *command.split()], capture_output=True, text=True, timeout=120
        )
        assert shown.returncode == 0, shown.stderr
        assert "base" in shown.stdout
    assert Path("runs/base/report.html").stat().st_size > 50_000


def test_the_ten_lines_print_a_forecast_like_the_one_that_they_promise(names, capsys):
    """The comment behind ``print`` has the form of a real forecast near the edge."""
    promised = re.search(r"print\(forecast\)  # (.*)", block("Ten lines"))[1]
    numbers = re.fullmatch(
        r"a spike within (\d+) steps: (\d+)% \((\d+)%–(\d+)%\); stability ratio ([\d.]+), armed", promised
    )
    horizon, chance, least, most, ratio = map(float, numbers.groups())
    forecast = foreshock.Forecast(
        *(0, ratio, 0.0, 0.0, 0.0, 0.001, "armed", ""),
        probability=chance / 100,
        probability_low=least / 100,
        probability_high=most / 100,
        horizon=horizon,
    )
    assert str(forecast) == promised


def test_the_one_line_guards_the_optimizer(names):
    exec(block("One line against spikes"), names)  # noqa: S102 - the README's own code
    assert isinstance(names["guard"], foreshock.Guard)
    assert "`guard.measure(model, loss_fn, batch)`" in README
    for _ in range(3):
        names["optimizer"].zero_grad()
        names["loss_fn"](names["model"], names["batch"]).backward()
        names["guard"].measure(names["model"], names["loss_fn"], names["batch"])
        names["optimizer"].step()
    assert names["guard"].step == 3
    names["guard"].detach()
    monitor = foreshock.Monitor(names["model"], names["optimizer"], names["loss_fn"], guard="auto")
    assert monitor.guard.policy.name == "auto"


def test_the_one_call_measurements_measure(names):
    source = block("Only the number")
    sharpness, reading, density = (line.partition("  #")[0] for line in source.splitlines() if line)
    values = [eval(expression, names) for expression in (sharpness, reading, density)]  # noqa: S307
    model, loss_fn, batch = (names[name] for name in ("model", "loss_fn", "batch"))
    # λ_max of the dense Hessian is the oracle of the first; the spectrum is the preconditioned one.
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]

    def loss(flat):
        parts = zip(parameters, flat.split(sizes), strict=True)
        shaped = {name: part.view_as(parameters[name]) for name, part in parts}
        return (torch.func.functional_call(model, shaped, batch[0]) - batch[1]).square().mean()

    dense = torch.func.hessian(loss)(torch.cat([p.flatten() for p in parameters.values()]))
    assert values[0] == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-2)
    assert values[1] > 0
    assert values[2].upper == pytest.approx(values[1], rel=2e-2)
    assert loss_fn(model, batch).item() > 0


def test_the_curvature_of_a_checkpoint_is_measured_by_the_command_that_is_shown(names, tmp_path):
    [command] = re.findall(r"^`(foreshock curvature [^`]+)`", README, re.MULTILINE)
    (tmp_path / "train.py").write_text(TRAIN)
    optimizer, model = names["optimizer"], names["model"]
    names["loss_fn"](model, names["batch"]).backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    shown = subprocess.run(
        [sys.executable, "-m", *command.split()], capture_output=True, text=True, timeout=120
    )
    assert shown.returncode == 0, shown.stderr
    assert "stability ratio" in shown.stdout


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands_in(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    inline = re.findall(rf"`(foreshock (?:{'|'.join(COMMANDS)})\b[^`\n]*)`", text)
    lines = re.findall(rf"^(foreshock (?:{'|'.join(COMMANDS)})\b[^\n#]*)", text, re.MULTILINE)
    # Usage lines, with OPTIONS and …, are no commands.
    return [one for one in inline + lines if not re.search(r"…|\[OPTIONS\]|\.\.\.", one)]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_the_pages_show_is_one_with_these_options(page):
    from foreshock.cli.app import app

    for command in commands_in(page):
        with redirect_stdout(io.StringIO()) as shown:
            # With --help a command is parsed, its options are checked, and nothing is run.
            app([*command.split()[1:], "--help"], prog_name="foreshock", standalone_mode=False)
        assert "Usage: foreshock" in shown.getvalue(), command


def test_an_unknown_option_would_be_noticed():
    from foreshock.cli.app import app

    with pytest.raises(Exception, match="--absent"):
        app(["demo", "--absent", "--help"], prog_name="foreshock", standalone_mode=False)
    assert any("--picture" in command for command in commands_in(ROOT / "README.md"))


def test_make_has_the_two_targets_and_the_extras_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {word for text in blocks("sh") for word in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)}
    assert shown == {"demo", "test"}
    assert shown <= targets
    extras = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    for extra in re.findall(r"foreshock\[(\w+)\]", README):
        assert re.search(rf"^{extra} = ", extras, re.MULTILINE)


def test_every_link_to_a_file_leads_to_one():
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
