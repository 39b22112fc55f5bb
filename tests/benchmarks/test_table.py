"""The page shows what was recorded: failures as failures, ratios between probes of the same point."""

import pytest
from benchmarks.curvature.table import ratio_to_ours, render


def _row(tool, units, *, warm=False, default=False, failure="", first=0):
    return {
        "case": "mlp",
        "parameters": 8970,
        "operator": "raw",
        "tool": tool,
        "method": f"{tool} method",
        "warm": warm,
        "setting": {} if default else {"tol": 0.1},
        "default": default,
        "failure": failure,
        "probes": [
            {
                "point": first + i,
                "units": unit,
                "seconds": unit / 100,
                "products": 2 + i,
                "error": 0.001 * (i + 1),
            }
            for i, unit in enumerate(units)
        ],
    }


def _record(rows):
    limit = {
        "situation": "dropout",
        "changed": [],
        "failure": "",
        "error": 1e-5,
        "value": 1.0,
        "reference": 1.0,
    }
    return {
        "suite": "quick",
        "tolerance": 0.005,
        "minutes": 1.5,
        "machine": {
            "processor": "A processor",
            "python": "3.11",
            "threads": 1,
            "date": "2026-01-01",
            "versions": {"torch": "2.13.0", "pyhessian": None},
        },
        "trajectories": rows,
        "products": [
            {
                "tool": "foreshock",
                "parameters": 10**6,
                "unit_seconds": 0.05,
                "open": 3.1,
                "product": 2.04,
                "spread": [1.9, 2.2],
                "failure": "",
            },
            {"tool": "curvlinops", "failure": "RuntimeError: a | b"},
        ],
        "memory": [],
        "limits": [
            {**limit, "tool": "foreshock", "accurate": True},
            {**limit, "tool": "pyhessian", "error": 0.2, "accurate": False, "changed": ["train mode"]},
            {
                **limit,
                "tool": "hessian_eigenthings",
                "error": 2.33,
                "value": -4.0,
                "reference": 3.0,
                "accurate": False,
            },
            {**limit, "tool": "curvlinops", "error": None, "failure": "RuntimeError: not deterministic"},
        ],
    }


def test_a_ratio_pairs_probes_of_the_same_point():
    ours = _row("foreshock", [2.0, 4.0, 8.0], warm=True, first=1)
    peer = _row("pyhessian", [1000.0, 20.0, 12.0, 8.0])
    assert ratio_to_ours(peer, ours) == 3.0


def test_no_common_point_no_ratio():
    assert ratio_to_ours(_row("pyhessian", [1.0]), _row("foreshock", [1.0], first=5)) is None


@pytest.fixture
def page():
    return render(
        _record(
            [
                _row("foreshock", [1.0, 1.0], warm=True, default=True, first=1),
                _row("foreshock", [5.0, 5.0], warm=True, first=1),
                _row("pyhessian", [30.0, 20.0, 30.0]),
                _row("hessian_eigenthings", [50.0, 50.0], first=1),
                _row("hessian_eigenthings", [10.0, 10.0], warm=True, first=1),
                _row("curvlinops", [], failure="no setting tried meets 0.5% at every probe"),
            ]
        )
    )


def test_the_summary_compares_with_our_accurate_warm_row_not_with_our_default(page):
    line = next(line for line in page.splitlines() if line.startswith("| mlp | raw"))
    assert line == "| mlp | raw | 2.5 | 5.0 (5.0–5.0) | 0.20% | 5.0× | 10.0× (2.0×) | – |"


def test_a_line_shows_products_time_ratio_and_the_worst_error(page):
    assert "| pyhessian method | tol = 0.1 | 3 (2–4) | 30.0 (20.0–30.0) | 5.0× | 0.30% | 3 |" in page
    assert "| foreshock method | *as it comes* | 2.5 (2–3) | 1.0 (1.0–1.0) | 0.2× | 0.20% | 2 |" in page


def test_failures_are_shown_word_for_word(page):
    assert "no setting tried meets 0.5% at every probe" in page
    assert "RuntimeError: a \\| b" in page
    assert "`RuntimeError: not deterministic`" in page


def test_wrong_values_stand_out(page):
    assert "**wrong by 20.00%**<br>changed: train mode" in page
    assert "**-4 for 3**" in page


def test_without_an_accurate_setting_of_ours_the_summary_says_so():
    page = render(_record([_row("foreshock", [], warm=True, failure="no setting"), _row("pyhessian", [1.0])]))
    assert "| mlp | raw | no setting accurate |" in page


def test_every_line_of_a_table_has_as_many_cells_as_its_head(page):
    widths = set()
    for line in [*page.splitlines(), ""]:
        if not line.startswith("|"):
            assert len(widths) <= 1
            widths = set()
        else:
            widths.add(line.replace("\\|", "").count("|"))
