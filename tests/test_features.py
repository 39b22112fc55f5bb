"""The page of features: each row of ours names a test that exists, and says something of each tool."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "features.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_MARKS = "●◐–"


def rows():
    """Return the cells of each row that has a column for tests, without heads and rules."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.count("|") == 8]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [one for one in cells if one[0] and not one[0].startswith("---")]


@cache
def functions_of(path):
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_tests_that_exist(row):
    named = _TEST.findall(row[-1])
    assert named
    assert _TEST.sub("", row[-1]).strip(" ,") == ""
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(path)] == []


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_says_something_of_every_tool(row):
    ours, *others = row[1:-1]
    assert ours[:1] == "●"
    assert len(others) == 4
    assert all(cell[:1] in _MARKS or cell == "only logs" for cell in others)


def test_every_row_counts_and_what_others_have_stands_there_too():
    text = PAGE.read_text("utf-8")
    assert len(rows()) == len(_TEST.findall(text)) > 40
    beyond = text.partition("## What they have and Foreshock has not")[2]
    for tool in ("W&B", "TensorBoard", "Trackio", "trainscope"):
        assert beyond.count(tool) >= 3


def test_the_number_of_causes_is_that_of_the_code():
    from typing import get_args

    from foreshock.explain.record import Name

    words = {12: "twelve", 13: "thirteen", 14: "fourteen"}
    assert f"● {words[len(get_args(Name))]} causes" in PAGE.read_text("utf-8")
