"""The commands as a user runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

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
def quick_demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    result = foreshock("demo", "--quick", "--out", out, "--picture", out / "picture.svg")
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_the_quick_demo_forecasts_spikes_of_both_networks(quick_demo):
    out, shown = quick_demo
    for name in ("digits-cnn", "transformer"):
        assert f"{name}: " in shown
        assert re.search(rf"{name}  step \d+/\d+  loss \S+  ratio \d", shown)
        run = read_run(out / name)
        assert len(run.records["curvature"]) > 50
        assert [event["name"] for event in run.records["event"]] == ["backend"]
    spiking, announced = zip(
        *((int(n), int(m)) for n, m in re.findall(r": (\d+) spikes?, (\d+) announced", shown)),
        strict=True,
    )
    assert min(spiking) >= 1
    # Which spike comes when depends on the machine's last bits; that most are announced does not.
    assert sum(announced) >= sum(spiking) / 2
    assert re.search(r"\d+ steps\s+ahead", shown)


def test_the_quick_demo_leaves_one_self_contained_page_and_the_picture(quick_demo):
    out, shown = quick_demo
    page = (out / "report.html").read_text()
    assert str((out / "report.html").resolve()) in shown
    assert "digits-cnn" in page
    assert "transformer" in page
    assert not re.search(r"""(?:src|href)=["']https?://""", page)
    assert "<svg" in (out / "picture.svg").read_text()


def test_report_works_from_the_log_alone(quick_demo, tmp_path):
    out, _ = quick_demo
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


def test_demo_into_an_unwritable_folder_is_a_clear_error():
    run = foreshock("demo", "--quick", "--out", "/dev/null/demo")
    assert run.returncode == 1
    assert "run folder can't be written" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_report_of_a_run_without_probes_says_so(tmp_path):
    log = RunLogWriter(tmp_path, meta={"name": "bare"})
    for step in range(5):
        log.write("step", {"step": step, "loss": 1.0})
    log.close()
    assert "No curvature was measured" in foreshock("report", "--text", tmp_path).stdout
    assert json.loads(log.path.read_text().splitlines()[0])["schema"] == 2
