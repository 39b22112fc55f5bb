"""Every script of examples/ runs as a stranger runs it, and prints what it promises."""

from __future__ import annotations

import ast
import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import foreshock

EXAMPLES = Path(__file__).parents[1] / "examples"
LONGEST = 100
NUMBER = r"[-\d.e+]+"

# What each one must print, as regular expressions. On the edge of stability a training is chaotic: when a
# spike comes, how many there are and whether they were announced is not asked here.
EXPECTED = {
    "watch_training.py": [
        r"<Run runs/watch/rank0.jsonl: steps 0–1999, 1 session, records: 1 change, 2000 step,",
        r"^2,000 steps, loss \d",
        r"foreshock report runs/watch",
    ],
    "guard_training.py": [
        r"^without +\d+ spikes?, the highest \d+ ×; final loss \d",
        r"^with a guard +\d+ spikes?, the highest \d+ ×; final loss \d",
        r"the guard acted on \d+ of 2000 steps",
        r"^  step \d+: raised v along the unstable direction, factor 1\.",
    ],
    "rewind_training.py": [
        r"^left alone, the run ends at a loss of nan$",
        r"^back to step 2\d\d from step 3\d\d \(.* at step 30\d\): the batches of steps 2\d\d – 3",
        r"^back to step 4\d\d from step 4\d\d \(loss of nan at step 421\): the batches of steps",
        r"^rewound, it ends at 0\.\d+$",
        r"^the run that never failed ends at 0\.\d+$",
    ],
    "replay_digits.py": [
        r"^\d+ snapshots?, from before alarms and spikes: the last is rank0-step\d{8}$",
        rf"^unchanged: \d+ spikes? in 200 steps, loss {NUMBER}$",
        rf"^lr=x0.5: \d+ spikes? in 200 steps, loss {NUMBER}$",
    ],
    "mini_batches.py": [
        r"^480 steps of 2 × 32 examples; the noise was measured on \d+ of them$",
        rf"^mean-square ratio {NUMBER} \(1 is the edge\), v is at {NUMBER} × g²$",
        rf"^mean-square ratio {NUMBER} of the edge: {NUMBER} of curvature and {NUMBER} of noise, from 12 b",
    ],
    "checkpoint_curvature.py": [
        rf"^λ_max\(H\) {NUMBER} ± {NUMBER} ",
        rf"^stability ratio {NUMBER} ± {NUMBER} \(λ_max\(Ĥ\) {NUMBER}, threshold 2/η 200\)",
        r"^spectrum of 151 eigenvalues from ",
        r"^\$ foreshock curvature .*last\.pt --model checkpoint_curvature:make --data check",
        r"stability ratio λ_max\(Ĥ\)·η/2 +\d",
    ],
    "custom_optimizer.py": [
        r"^after 300 steps: a spike within 50 steps: <?\d+% \(<?\d+%–<?\d+%\); "
        rf"stability ratio {NUMBER}, \w+",
        r"^predicted and real step differ by \de-1[2-7]$",
        r"^guard 'secant': acted on \d+ of 300 steps",
    ],
    "gpt_distributed.py": [
        r"^fsdp2: [1-9]\d* of noise, [1-9]\d* of curvature together$",
        r"^foreshock report runs/fsdp2$",
    ],
    "custom_policy.py": [
        r"^guard 'damp': acted on 2 of 300 steps",
        r"^  step 100: scaled the gradient, factor 0.5: ",
        r"^  step 200: scaled the gradient, factor 0.5: ",
    ],
}
# Attached to a trainer or a loop of each sort: the folder of the log.
ATTACHED = {
    "transformers_trainer.py": "trainer",
    "lightning_trainer.py": "lightning",
    "accelerate_loop.py": "accelerate",
    "nanogpt_loop.py": "nanogpt",
    "torchtitan_trainer.py": "torchtitan",
    "olmo_core_callback.py": "olmo",
    "pinn.py": "pinn",
    "ppo.py": "ppo",
}
NEEDS = {
    "transformers_trainer.py": ("transformers", "accelerate"),
    "lightning_trainer.py": ("lightning",),
    "accelerate_loop.py": ("accelerate",),
}
for _name, _folder in ATTACHED.items():
    EXPECTED[_name] = [
        r"^a spike within 50 steps: <?\d+% \(<?\d+%–<?\d+%\); (stability|typical mean-square) ratio \d",
        rf"foreshock report runs/{_folder}$",
    ]
STARTS_OTHERS = {"gpt_distributed.py"}
SLOW = {"guard_training.py", "checkpoint_curvature.py", "watch_training.py", "replay_digits.py", *ATTACHED}


def test_every_example_is_short_run_here_and_listed():
    scripts = {path.name: path for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == set(EXPECTED)
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name, path in scripts.items():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < LONGEST, name
        assert f"python examples/{name}" in "\n".join(lines)
        assert f"[{name}]({name})" in index


def run_example(name: str, folder: Path) -> str:
    # Modules beside the script are found, those of the repository only as the installed package would be.
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"},
    )
    assert run.returncode == 0, run.stderr
    # Trainers talk of themselves there, and a monitor warns when it puts a run back.
    assert not run.stderr or name in {*NEEDS, *STARTS_OTHERS, "rewind_training.py"}, run.stderr
    return run.stdout


def _marks(name):
    if name in STARTS_OTHERS:
        return [pytest.mark.distributed]
    return [pytest.mark.slow] if name in SLOW else []


@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in EXPECTED])
def test_an_example_runs_anywhere_and_prints_what_it_promises(name, tmp_path):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    shown = run_example(name, tmp_path)
    for pattern in EXPECTED[name]:
        assert re.search(pattern, shown, re.MULTILINE), f"{pattern!r} is not in:\n{shown}"
    if name in ATTACHED:
        run = foreshock.read_run(tmp_path / "runs" / ATTACHED[name])
        assert [event for event in run.records["event"] if "misuse" in event["name"]] == []
        assert max([row["loss_mismatch"] for row in run.records["noise"]], default=0) < 0.2
    if name == "checkpoint_curvature.py":
        # Python and the command measure the same, from the live objects and from the file.
        live, saved = (
            float(re.search(pattern, shown, re.MULTILINE)[1])
            for pattern in (rf"^λ_max\(H\) ({NUMBER})", rf"λ_1\(H\) +({NUMBER})")
        )
        assert live == pytest.approx(saved, rel=1e-3)


def names_of(node: ast.AST) -> set[str]:
    return {
        getattr(one, "id", None) or one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Name | ast.Attribute)
    }


def variables_read(trees: list[ast.AST]) -> set[str]:
    """Return the variables that are read, but not what a statement reads only to bind it anew."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.stmt)):
        # Of a block only its head: the statements in it are walked themselves.
        parts = [getattr(node, head) for head in ("iter", "test") if hasattr(node, head)]
        parts = parts if hasattr(node, "body") else [node]
        names = [one for part in parts for one in ast.walk(part) if isinstance(one, ast.Name)]
        arguments = {one.arg for part in parts for one in ast.walk(part) if isinstance(one, ast.arg)}
        bound = {one.id for one in names if isinstance(one.ctx, ast.Store)}
        found |= {one.id for one in names} - bound - arguments
    return found


class Without(ast.NodeTransformer):
    """Take out of a script what attaches the product to it: the training without it is left."""

    def __init__(self, tree: ast.Module) -> None:
        self.ours, self.taken = set(), []
        for _ in range(3):  # what is made of what is ours is ours, and methods come before what calls them
            for node in ast.walk(tree):
                if isinstance(node, ast.Import | ast.ImportFrom) and "foreshock" in ast.unparse(node):
                    self.ours |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
                elif isinstance(node, ast.Assign) and self._made_by_us(node.value):
                    self.ours |= set().union(*map(names_of, node.targets)) - {"self"}

    def _made_by_us(self, value: ast.AST) -> bool:
        return isinstance(value, ast.Call) and bool(names_of(value.func) & self.ours)

    def visit(self, node: ast.AST) -> ast.AST | None:
        imported = isinstance(node, ast.Import | ast.ImportFrom) and "foreshock" in ast.unparse(node)
        made = isinstance(node, ast.Assign | ast.Expr) and self._made_by_us(node.value)
        passed = isinstance(node, ast.keyword) and names_of(node.value) & self.ours
        if imported or made or passed:
            self.taken.append(node)
            return None
        return self.generic_visit(node)


def lines_added(source: str) -> tuple[list[str], ast.Module, Without]:
    """Return the lines by which a script differs from the training without the product, one a statement."""
    source = "\n".join(line for line in source.splitlines() if not line.startswith("print("))
    without = Without(ast.parse(source))
    plain = without.visit(ast.parse(source))
    before, after = ast.unparse(plain).splitlines(), ast.unparse(ast.parse(source)).splitlines()
    return [line[2:] for line in difflib.ndiff(before, after) if line.startswith("+ ")], plain, without


@pytest.mark.parametrize("name", sorted(set(ATTACHED) - {"olmo_core_callback.py"}))
def test_attaching_takes_three_added_lines_at_most(name):
    added, plain, without = lines_added((EXAMPLES / name).read_text(encoding="utf-8"))
    assert 2 <= len(added) <= 3, added
    # What is left is a whole training, in which nothing was written for the product alone.
    compile(ast.unparse(plain), name, "exec")
    left = names_of(plain)
    assert not left & without.ours
    assert variables_read(without.taken) - without.ours <= variables_read([plain])
    assert {"backward", "step"} <= left or "fit" in left or "train" in left


def test_the_how_to_page_says_how_many_lines_each_takes():
    page = (EXAMPLES.parent / "docs" / "how-to" / "attach-to-a-trainer.md").read_text(encoding="utf-8")
    said = {name: int(lines) for lines, name in re.findall(r"\| (\d) \| `(\w+\.py)` \|$", page, re.MULTILINE)}
    for name in set(ATTACHED) - {"olmo_core_callback.py"}:
        assert said[name] == len(lines_added((EXAMPLES / name).read_text(encoding="utf-8"))[0]), name
