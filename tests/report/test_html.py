import json
import re
import subprocess
import sys

import pytest

from foreshock.report.captions import CAPTIONS
from foreshock.report.glossary import TERMS, linked
from foreshock.report.html import embed, write_html


@pytest.fixture
def page(spiky, blind, tmp_path):
    return write_html([spiky, blind], tmp_path / "new" / "report.html").read_text()


def data_of(page):
    return [
        json.loads(text)
        for text in re.findall(r'<script type="application/json" class="data">(.*?)</script>', page)
    ]


def test_nothing_is_loaded_from_elsewhere(page):
    assert not re.search(r"<(link|script|img|iframe)[^>]+(src|href)=[\"'](?!data:)", page)
    assert not re.search(r"@import|url\(", page)
    assert "fetch(" not in page
    assert "uPlot" in page
    assert "Permission is hereby granted" in page


def test_each_run_has_its_section_and_verdict(page):
    assert re.findall(r'<a href="#(run-\d)">', page) == ["run-1", "run-2"]
    assert re.findall(r'<section class="run" id="(run-\d)"', page) == ["run-1", "run-2"]
    assert re.search(r'<p class="verdict">\d+ spikes \(up to [\d,.]+×\); \d+ of \d+ announced, median', page)
    assert "no curvature was measured, so nothing was announced" in page
    assert [len(data["charts"]) for data in data_of(page)] == [10, 5]


def test_terms_of_the_captions_lead_to_one_glossary_on_the_page(page):
    links = re.findall(r'<a class="term" href="#([^"]+)">([^<]+)</a>', page)
    assert {"stability ratio", "edge", "instant lag", "alignment"} <= {words.lower() for _, words in links}
    for target, words in links:
        assert target == f"term-{words.lower().replace(' ', '-')}"
        assert len(re.findall(rf'<div id="{target}"><dt>{words}</dt><dd>', page, re.IGNORECASE)) == 1
    assert page.count('<details class="glossary"') == 1
    assert len(re.findall(r'<div id="term-', page)) == len(TERMS)


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_keeps_its_words_and_links_each_term_once(name):
    caption = CAPTIONS[name]["caption"]
    pieces = linked(caption)
    assert "".join(words for words, _ in pieces) == caption
    anchors = [target for _, target in pieces if target]
    assert len(anchors) == len(set(anchors))


def test_each_run_is_told_apart_where_all_are_shown(page, spiky, tmp_path):
    assert re.findall(r'--colour: var\(--(run-\d)\)"></i>(\w+)</a>', page) == [
        ("run-0", "spiky"),
        ("run-1", "blind"),
    ]
    twice = write_html([spiky, spiky], tmp_path / "twice.html").read_text()
    assert [data["label"] for data in data_of(twice)] == ["spiky (1)", "spiky (2)"]
    overlaid = re.search(r'id="overlaid">.*?</section>', page, re.DOTALL).group()
    shown = re.findall(r'data-chart="([^"]+)"', overlaid)
    assert shown == [
        "loss",
        "probability",
        "ratio",
        "alignment",
        "gradient-norm",
        "learning-rate",
        "lag",
        "decay",
    ]
    assert 'aria-label="Loss of spiky, blind"' in overlaid
    assert 'aria-label="Stability ratio of spiky"' in overlaid
    assert "fan" not in overlaid


def test_what_is_too_much_for_the_first_look_can_be_opened(log, tmp_path):
    words = [f"misuse {i}: " + "x" * 150 for i in range(4)]
    rows = [("event", {"step": 0, "name": "misuse", "message": one}) for one in words]
    page = write_html([log(("step", {"step": 0, "loss": 1.0}), *rows)], tmp_path / "a.html").read_text()
    shown = page.split('<div class="answers">')[1].split("<details")[0]
    assert [one in shown for one in words] == [True, True, False, False]
    assert all(one in page for one in words)


def test_one_run_has_no_navigation(spiky, tmp_path):
    page = write_html([spiky], tmp_path / "one.html").read_text()
    assert "<nav" not in page
    assert page.count("<h1") == 1
    assert 'id="overlaid"' not in page
    for words in (
        "What this rests on",
        "Hessian products per probe",
        "autograd",
        "foreshock report",
    ):
        assert words in page


def test_tables_and_charts_speak_to_screen_readers(page):
    assert page.count('<th scope="row">') >= 10
    assert 'role="img" aria-label="Loss, steps 0 to 1,199: loss between' in page


def test_a_hostile_log_stays_text(log, tmp_path):
    evil = "</script><script>alert(1)</script><!--"
    run = log(
        ("step", {"step": 0, "loss": 1.0}),
        ("event", {"step": 0, "name": evil, "message": evil}),
        name=evil,
        description=evil,
        optimizer=evil,
    )
    page = write_html([run, run], tmp_path / "evil.html").read_text()
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 10


def test_embedded_json_reads_back_and_cannot_end_its_element():
    data = {"name": "</script><!-- & λ \u2028"}
    assert json.loads(embed(data)) == data
    assert not re.search(r"[<>&\u2028]", embed(data))


@pytest.mark.parametrize("meta", [{}, {"betas": [0.9, 0.999], "parameters": 12345, "amsgrad": True}])
def test_a_log_without_losses_says_so_and_draws_nothing(log, tmp_path, meta):
    page = write_html([log(**meta)], tmp_path / "empty.html").read_text()
    assert "The log has no losses" in page
    assert "<figure" not in page
    assert data_of(page) == []
    assert ("12,345" in page) == bool(meta)


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        write_html([], tmp_path / "none.html")


def test_missing_jinja2_says_what_to_install(spiky, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=re.escape('pip install "foreshock[report]"')):
        write_html([spiky], tmp_path / "x.html")


def test_a_report_needs_no_torch_and_imports_its_extras_late(spiky, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import foreshock.report as r\n"
        "assert not {'jinja2', 'matplotlib'} & set(sys.modules), 'imported too early'\n"
        "from foreshock.runlog import read_run\n"
        "run = read_run(sys.argv[1])\n"
        "r.write_html([run], sys.argv[2] + '/a.html')\n"
        "r.write_picture(run, sys.argv[2] + '/a.png')\n"
        "print(r.verdict(r.summarise(run)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(spiky.path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "spikes" in done.stdout
