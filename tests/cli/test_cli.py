"""The commands as a user runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.cli.console import make_console
from foreshock.cli.report import print_overview, write_page
from foreshock.demo.digits_cnn import DigitsConfig
from foreshock.demo.stdlib_transformer import TransformerConfig
from foreshock.runlog import RunLogWriter, read_run


def foreshock(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foreshock", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


def test_help_and_version_import_no_torch():
    script = (
        "import sys; from foreshock.cli.app import app; "
        "from typer.testing import CliRunner; result = CliRunner().invoke(app, ['--help']); "
        "print(result.output); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "demo" in shown.stdout
    assert re.fullmatch(r"foreshock \d+\.\d+\.\d+\n", foreshock("--version").stdout)


def test_without_the_extra_the_command_says_what_to_install():
    script = "import sys; sys.modules['typer'] = None\nfrom foreshock.__main__ import main\nmain()"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 1
    assert 'pip install "foreshock[cli]"' in run.stderr


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory):
    """The quick demo with fewer steps: whether it spikes is asked in tests/demo."""
    out = tmp_path_factory.mktemp("demo")
    arguments = ["demo", "--quick", "--out", out, "--picture", out / "picture.svg"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DigitsConfig, "quick", lambda *, seed: DigitsConfig(steps=110, images=20, seed=seed))
        patched.setattr(TransformerConfig, "quick", lambda *, seed: TransformerConfig(steps=110, seed=seed))
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return out, result.output


def test_the_demo_shows_and_logs_the_training_of_both_networks(short_demo):
    out, shown = short_demo
    for name in ("digits-cnn", "transformer"):
        assert f"{name}: " in shown
        assert re.search(rf"{name}  step \d+/110  loss \S+  ratio \d", shown)
        run = read_run(out / name)
        assert run.steps("step").size == 110
        assert 3 <= len(run.records["curvature"]) <= 11
        assert [event["name"] for event in run.records["event"]] == ["backend"]


def test_the_demo_leaves_one_self_contained_page_and_the_picture(short_demo):
    out, shown = short_demo
    page = (out / "report.html").read_text()
    assert str((out / "report.html").resolve()) in shown
    assert "digits-cnn" in page
    assert "transformer" in page
    assert not re.search(r"""(?:src|href)=["']https?://""", page)
    assert "<svg" in (out / "picture.svg").read_text()


def test_report_works_from_the_log_alone(short_demo, tmp_path):
    out, _ = short_demo
    script = (
        "import sys; sys.modules['torch'] = None\nfrom foreshock.cli.app import app\n"
        f"app(['report', {str(out / 'digits-cnn')!r}, '-o', {str(tmp_path / 'page.html')!r}])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "page.html").stat().st_size > 50_000
    text = foreshock("report", "--text", out / "digits-cnn").stdout
    assert text.startswith("digits-cnn: ")


def test_report_of_a_missing_run_is_a_clear_error(tmp_path):
    RunLogWriter(tmp_path / "runs" / "base").close()
    run = foreshock("report", tmp_path / "runs")
    assert run.returncode == 1
    assert "runs below it" in run.stderr
    assert "Traceback" not in run.stderr


def test_names_of_runs_and_folders_are_no_markup(tmp_path, capsys):
    folder = tmp_path / "[seed=3]  [red]"
    log = RunLogWriter(folder, meta={"name": "[/bold] base"})
    for step in range(300):
        log.write("step", {"step": step, "loss": 9.0 if step == 200 else 1.0})
    log.close()
    console = make_console()
    run = read_run(folder)
    print_overview(console, [run])
    write_page(console, [run], folder / "report.html")
    shown = capsys.readouterr().out
    assert re.search(r"^ *\[/bold\] base +200 ", shown, re.MULTILINE)
    assert "[/bold] base: 1 spike (9.0×); no curvature was measured" in shown
    assert f"Report: {folder}/report.html\n" in shown


def test_nothing_in_a_log_reaches_a_terminal_as_a_command(tmp_path):
    """OSC 52 would put something into the clipboard, OSC 0 rename the window, and CSI 2J clear the screen."""
    evil = "\x1b]52;c;Y3VybCBldmlsfHNo\x07\x1b]0;x\x1b\\\x9b2J\x1b[2J\r[bold]"
    folder = tmp_path / f"run{evil}"
    log = RunLogWriter(folder, meta={"description": evil, "guard": evil, "optimizer": evil, evil: evil})
    for step in range(300):
        log.write("step", {"step": step, "loss": 9.0 if step == 200 else 1.0})
    log.write("event", {"step": 5, "name": evil, "message": evil})
    log.write("guard", {"step": 6, "policy": evil, "remedy": "cooldown", "reason": evil})
    reading = {"stability_ratio": 0.5, "backend": evil, "blocks": [{"name": evil, "share": 1.0}]}
    log.write("curvature", {"step": 7, **reading})
    log.close()
    page, picture = tmp_path / f"p{evil}.html", tmp_path / "run.svg"
    commands = [
        ("report", "--text", folder),
        ("report", folder, "-o", page, "--picture", picture),
        ("report", folder / evil.replace("/", "")),
        ("curvature", folder, "--model", evil, "--data", evil),
    ]
    for command in commands:
        run = CliRunner().invoke(app, [str(word) for word in command])
        shown = run.stdout + run.stderr
        assert shown.strip()
        assert shown.replace("\n", "").isprintable(), command
        assert r"\x1b]" in shown  # shown in letters, not left out


def test_demo_into_an_unwritable_folder_is_a_clear_error_before_anything_is_loaded():
    script = (
        "import sys; sys.modules['torch'] = None\nfrom foreshock.cli.app import app\n"
        "app(['demo', '--quick', '--out', '/dev/null/demo'])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 1
    assert "/dev/null/demo: Not a directory; name another folder with --out" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_report_of_a_run_without_probes_says_so(tmp_path):
    log = RunLogWriter(tmp_path, meta={"name": "bare"})
    for step in range(5):
        log.write("step", {"step": step, "loss": 1.0})
    log.close()
    assert "No curvature was measured" in foreshock("report", "--text", tmp_path).stdout
    assert json.loads(log.path.read_text().splitlines()[0])["schema"] == 2


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("jinja2", ("report", "{run}")),
        ("matplotlib", ("report", "--text", "{run}", "--picture", "{run}/run.svg")),
        ("sklearn", ("demo", "--quick", "--out", "{run}/demo")),
    ],
)
def test_without_an_extra_a_command_says_which_to_install(tmp_path, module, arguments):
    log = RunLogWriter(tmp_path, meta={"name": "bare"})
    for step in range(5):
        log.write("step", {"step": step, "loss": 1.0})
    log.close()
    words = ["foreshock", *(word.format(run=tmp_path) for word in arguments)]
    script = f"import sys; sys.modules[{module!r}] = None\nfrom foreshock.__main__ import main\nmain()"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = {words!r}\n{script}"], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert re.search(r'pip install "foreshock\[\w+\]"$', run.stderr.strip())
    assert len(run.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("report", "{run}", "--output", "/dev/null/page.html"), "name another file with --output"),
        (("report", "--text", "{run}", "--picture", "/dev/null/run.svg"), "name another file with --picture"),
        (("report", "{run}/absent"), "give the folder passed as run="),
        (("demo", "--quick", "--out", "/dev/null/demo"), "name another folder with --out"),
        (("curvature", "{run}/last.pt", "--model", "absent:make", "--data", "a:b"), "no module 'absent'"),
        (("reproduce", "absent"), "there are quadratic"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(tmp_path, arguments, advice):
    log = RunLogWriter(tmp_path, meta={"name": "bare"})
    for step in range(5):
        log.write("step", {"step": step, "loss": 1.0})
    log.close()
    run = foreshock(*(word.format(run=tmp_path) for word in arguments))
    assert run.returncode == 1
    [line] = run.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert advice in line
