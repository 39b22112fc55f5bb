"""Check what `python -m build` made: the files inside, and the wheel installed as a user would install it."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Runs in an environment that has the wheel, torch, numpy and what they require, and nothing else.
_MONITOR = """
import sys
import foreshock
assert "torch" not in sys.modules, "import foreshock imports torch"
assert not foreshock.__file__.startswith({source!r}), "the checkout was imported, not the wheel"
for name in foreshock.__all__:
    getattr(foreshock, name)

import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
batch = torch.randn(16, 3), torch.randn(16, 1)
loss_fn = lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1])
monitor = foreshock.Monitor(model, optimizer, loss_fn, run={run!r}, probe_every=5)
for _ in range(20):
    optimizer.zero_grad()
    loss = loss_fn(model, batch)
    loss.backward()
    monitor.observe(batch, loss)
    optimizer.step()
monitor.close()
assert len(foreshock.read_run({run!r}).records["curvature"]) >= 4
"""


def check_files(wheel: Path, source: Path) -> None:
    """Compare the distributions with the repository.

    Raises:
        SystemExit: If a file is missing, or one is there that is not in the repository.
    """
    tracked = _run("git", "ls-files", cwd=ROOT).splitlines()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    wanted = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    _require_equal(packed, wanted, wheel.name)
    for licence in ("LICENSE", "uPlot.LICENSE"):
        if not any(".dist-info/licenses/" in name and name.endswith(f"/{licence}") for name in names):
            raise SystemExit(f"{wheel.name} lacks the licence {licence}: see license-files in pyproject.toml")
    with tarfile.open(source) as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    _require_equal(inside - {"PKG-INFO"}, set(tracked), source.name)


def check_installation(wheel: Path, folder: Path) -> None:
    """Install the wheel alone and use it, then with extras and use the command.

    Raises:
        subprocess.CalledProcessError: If a step fails; its output is shown.
    """
    python = folder / "venv" / "bin" / "python"
    run = folder / "run"
    venv.create(python.parent.parent, with_pip=True)
    _install(python, str(wheel))
    _run(python, "-c", _MONITOR.format(source=str(ROOT / "src"), run=str(run)), cwd=folder)
    command = python.with_name("foreshock")
    bare = subprocess.run([command, "--version"], capture_output=True, text=True, cwd=folder, check=False)
    if bare.returncode == 0 or 'pip install "foreshock[cli]"' not in bare.stderr:
        raise SystemExit(f"without typer, foreshock must say what to install; it said: {bare.stderr}")
    _install(python, f"{wheel}[cli,report]")
    version = wheel.name.split("-")[1]
    if _run(command, "--version", cwd=folder).strip() != f"foreshock {version}":
        raise SystemExit(f"foreshock --version does not show {version}, the version of {wheel.name}")
    page = folder / "page.html"
    _run(command, "report", run, "--output", page, cwd=folder)
    if "uPlot" not in page.read_text(encoding="utf-8"):
        raise SystemExit(f"{page} has no charts: the assets of the report are missing from {wheel.name}")


def main(dist: Path) -> None:
    """Check the one wheel and the one source distribution of a folder."""
    wheels, sources = list(dist.glob("*.whl")), list(dist.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        raise SystemExit(
            f"{dist} has {len(wheels)} wheels and {len(sources)} source distributions; "
            "one of each is needed: empty it and run python -m build"
        )
    check_files(wheels[0], sources[0])
    print(f"{wheels[0].name}, {sources[0].name}: all files of the repository, none besides")
    with tempfile.TemporaryDirectory() as folder:
        check_installation(wheels[0].resolve(), Path(folder))
    print(f"{wheels[0].name}: works with torch and numpy alone; the command works with its extras")


def _require_equal(found: set[str], wanted: set[str], name: str) -> None:
    if missing := sorted(wanted - found):
        raise SystemExit(f"{name} lacks {', '.join(missing)}: see tool.hatch.build in pyproject.toml")
    if surplus := sorted(found - wanted):
        raise SystemExit(
            f"{name} has {', '.join(surplus)}, which git does not track: build from a clean clone"
        )


def _install(python: Path, requirement: str) -> None:
    constraints = ROOT / "constraints.txt"
    _run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, requirement, cwd=ROOT)


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, cwd=cwd, check=True)
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
