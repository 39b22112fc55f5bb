"""The files around the code: what they say of each other and of the code is true."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import foreshock

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    if "_build" not in path.parts
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))


def constraints() -> dict[str, str]:
    pins = (line.split("==") for line in read("constraints.txt").splitlines() if "==" in line)
    return {name.lower().replace("_", "-"): version for name, version in pins}


def make_targets() -> set[str]:
    """Return the targets that are names, not files."""
    rules = re.findall(r"^([a-z][a-z -]*):(?!=)", read("Makefile"), re.MULTILINE)
    return {target for rule in rules for target in rule.split()}


def made(text: str) -> set[str]:
    """Return the targets that a script or a page passes to make."""
    calls = re.findall(r"\bmake(?: +--[\w=-]+)*((?: +[a-z][a-z-]*)+)", text)
    return {target for call in calls for target in call.split()}


def workflow_steps(path: Path) -> Iterator[dict]:
    for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
        yield from job.get("steps", [{"uses": job["uses"]}] if "uses" in job else [])


def workflow_targets(path: Path) -> set[str]:
    return {target for step in workflow_steps(path) for target in made(step.get("run", ""))}


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_a_workflow_calls_targets_that_exist(path):
    called = workflow_targets(path)
    assert called
    assert called <= make_targets()


def test_every_target_is_phony():
    phony = " ".join(re.findall(r"^\.PHONY:(.*)$", read("Makefile"), re.MULTILINE)).split()
    assert set(phony) == make_targets()


def test_the_workflow_runs_every_check():
    by_script = made(read(".ci/run"))
    markers = [marker.partition(":")[0] for marker in project()["tool"]["pytest"]["ini_options"]["markers"]]
    markers.remove("training")  # those are among the other tests, and repeated in other arithmetic
    apart = {"test", *(f"test-{marker}" for marker in markers)}
    assert by_script == {"lint", "types", "layers", "docs", "test-all", "test-arithmetic"}
    assert workflow_targets(ROOT / ".github/workflows/ci.yml") == by_script - {"test-all"} | apart | {
        "package"
    }


def test_fast_tests_leave_out_what_the_other_targets_run():
    options = project()["tool"]["pytest"]["ini_options"]
    markers = [marker.partition(":")[0] for marker in options["markers"]]
    markers.remove("training")
    assert " and ".join(f"not {marker}" for marker in markers) in options["addopts"]


def test_the_workflow_runs_the_pythons_that_are_promised():
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    classifiers = project()["project"]["classifiers"]
    promised = [line.rpartition(" ")[2] for line in classifiers if re.search(r"Python :: 3\.\d+$", line)]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    assert project()["project"]["requires-python"] == f">={promised[0]}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_a_workflow_may_read_only_and_names_major_versions(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    granted = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert granted in ({}, {"publish": {"id-token": "write"}})
    for step in workflow_steps(path):
        used = step.get("uses", "./")
        assert used.startswith("./") or re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", used), used
        if used.startswith("./"):
            assert (ROOT / used).exists()
        if used.startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}


def test_hooks_use_the_pinned_versions():
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    named = {requirement for hook in hooks for requirement in hook.get("additional_dependencies", ())}
    pins = constraints()
    assert f"ruff=={pins['ruff']}" in named
    for requirement in named:
        name, _, version = requirement.partition("==")
        assert version, f"{requirement} must be pinned with =="
        assert pins.get(name, version) == version
    for hook in hooks:
        if hook["entry"].startswith("make "):
            assert made(hook["entry"]) <= make_targets()


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == foreshock.__version__
    assert citation["license"] == project()["project"]["license"]
    assert [paper["url"] for paper in citation["references"]] == ["https://arxiv.org/abs/2506.04805"]
    assert citation["references"][0]["url"] in read("README.md")


def test_the_changelog_has_unreleased_changes_first_and_only_known_sections():
    headings = re.findall(r"^(#+) (.*)$", read("CHANGELOG.md"), re.MULTILINE)
    versions = [title for level, title in headings if level == "##"]
    assert versions[0] == "[Unreleased]"
    for title in versions[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\S*\] - \d{4}-\d{2}-\d{2}", title)
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {title for level, title in headings if level == "###"} <= known


def test_dependabot_leaves_torch_and_the_peers_alone():
    updates = yaml.safe_load(read(".github/dependabot.yml"))["updates"]
    assert [update["package-ecosystem"] for update in updates] == ["pip", "github-actions"]
    ignored = {entry["dependency-name"] for entry in updates[0]["ignore"]}
    extras = project()["project"]["optional-dependencies"]
    exact = {line.partition("==")[0] for lines in extras.values() for line in lines if "==" in line}
    assert ignored == {"torch"} | exact


def check_tag():
    spec = importlib.util.spec_from_file_location("check_tag", ROOT / ".ci/check_tag.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def released(folder: Path, version: str, *, date: str = "2027-01-31") -> Path:
    """Write the three files that state a version, as they are when it is released."""
    texts = {
        "src/foreshock/_version.py": f'"""The version."""\n\n__version__ = "{version}"\n',
        "CITATION.cff": f"cff-version: 1.2.0\nversion: {version}\n",
        "CHANGELOG.md": f"# Changelog\n\n## [Unreleased]\n\n## [{version}] - {date}\n",
    }
    for place, text in texts.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, encoding="utf-8")
    return folder


def test_a_tag_is_accepted_where_all_files_state_its_version(tmp_path):
    problems = check_tag().problems
    assert problems("v1.2.3", released(tmp_path, "1.2.3")) == []
    assert problems("v1.2.3rc1", released(tmp_path, "1.2.3rc1")) == []


@pytest.mark.parametrize("place", ["src/foreshock/_version.py", "CITATION.cff", "CHANGELOG.md"])
def test_a_tag_is_refused_where_one_file_states_another_version(tmp_path, place):
    script = check_tag()
    assert place in script.PLACES
    folder = released(tmp_path, "1.2.3")
    stated = (folder / place).read_text(encoding="utf-8")
    (folder / place).write_text(stated.replace("1.2.3", "1.2.30"), encoding="utf-8")
    (problem,) = script.problems("v1.2.3", folder)
    assert place in problem
    assert "1.2.3" in problem


def test_a_tag_is_refused_without_a_date_or_with_another_form(tmp_path):
    problems = check_tag().problems
    (problem,) = problems("v1.2.3", released(tmp_path, "1.2.3", date="soon"))
    assert "## [1.2.3] - YYYY-MM-DD" in problem
    for tag in ("1.2.3", "v1.2", "v1.2.3; rm", ""):
        (problem,) = problems(tag, tmp_path)
        assert "for instance v1.2.3" in problem


@pytest.mark.parametrize("tag_place", ["src/foreshock/_version.py", "CITATION.cff"])
def test_the_files_have_the_lines_that_a_tag_is_compared_with(tag_place):
    line = check_tag().PLACES[tag_place].format(foreshock.__version__)
    assert line in read(tag_place).splitlines()


def named_files(text: str) -> set[str]:
    """Return the paths of the repository that a page names as code, patterns and placeholders aside."""
    spans = re.findall(r"`([^`\n]+)`", text)
    words = {word for span in spans for word in span.split()}
    top = r"(src|tests|docs|benchmarks|examples|\.ci|\.github)/|(Makefile|constraints\.txt|pyproject\.toml)$"
    return {word for word in words if re.match(top, word) and not re.search(r"[*{}<>…$()=]", word)}


# Files that a command makes or that a release will bring, named before they exist.
MADE_LATER = {"docs/_build/html"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_files_that_exist(page):
    named = named_files(page.read_text(encoding="utf-8")) - MADE_LATER
    # A test in a file is named with two colons.
    assert [word for word in sorted(named) if not (ROOT / word.partition("::")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_targets_of_make_that_exist(page):
    # Of lines that begin so only those in a block of code: others are English.
    text = page.read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL))
    spans = re.findall(r"`make [^`\n]+`", text) + re.findall(r"^ *make .*$", blocks, re.MULTILINE)
    called = {target for span in spans for target in made(span.partition("#")[0])}
    assert called <= make_targets()


def test_contributing_names_every_check_of_the_workflow():
    table = "\n".join(re.findall(r"^\|.*$", read("CONTRIBUTING.md"), re.MULTILINE))
    missing = workflow_targets(ROOT / ".github/workflows/ci.yml") - made(table)
    assert not missing


def calls(source: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def option(call: ast.Call, name: str) -> object:
    """Return a keyword argument that is written as a constant, or None."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


RUNS_CODE = ("pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "eval", "exec")


def test_what_is_loaded_from_files_can_run_no_code():
    loads = []
    for source in SOURCES:
        for function, call in calls(source):
            if function == "torch.load":
                loads.append(function)
                assert option(call, "weights_only") is True, name_of(source)
            elif function in ("np.load", "numpy.load"):
                loads.append(function)
                # False is NumPy's default, too.
                assert option(call, "allow_pickle") in (None, False), name_of(source)
            elif function == "jinja2.Environment":
                loads.append(function)
                assert option(call, "autoescape") is True, name_of(source)
            assert function not in RUNS_CODE, name_of(source)
    assert {"torch.load", "np.load", "jinja2.Environment"} <= set(loads)
