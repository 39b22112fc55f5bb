"""The documentation: links lead somewhere, every public name has its page, and the site needs no network."""

import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

import foreshock
from chromium import CHROMIUM

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)])


def links_of(page):
    """Return the targets of all links and images of a page."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    inline = [child for token in tokens for child in token.children or ()]
    found = [child.attrGet("href") or child.attrGet("src") for child in inline]
    return [target for target in found if target]


def labels_of(page):
    """Return the explicit targets of a page, such as ``(reproduce-cnn)=``."""
    return set(re.findall(r"^\(([\w-]+)\)=$", page.read_text(), re.MULTILINE))


def anchors_of(page):
    """Return what can follow # in a link to a page: slugs of its headings as MyST makes them, and labels."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    taken = Counter()
    anchors = labels_of(page)
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children)
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            anchors.add(f"{slug}-{taken[slug]}" if taken[slug] else slug)
            taken[slug] += 1
    return anchors


def broken_links(page):
    """Return the links of a page that lead nowhere."""
    everywhere = set().union(*map(labels_of, PAGES)) if page.is_relative_to(DOCS) else set()
    for target in links_of(page):
        parts = urlsplit(target)
        if parts.scheme in ("http", "https"):
            continue
        goal = page.parent / unquote(parts.path) if parts.path else page
        known = anchors_of(goal) if goal.suffix == ".md" and goal.is_file() else set()
        known |= everywhere if not parts.path else set()
        if not goal.exists() or (parts.fragment and parts.fragment not in known):
            yield f"{page.relative_to(ROOT)} → {target}"


def test_every_link_leads_somewhere():
    broken = {link for page in PAGES for link in broken_links(page)}
    assert broken == set()


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("[a](other.md)", 0),
        ("[a](other.md#a-heading-with-code-is-one)", 0),
        ("[a](other.md#twice-1) [b](other.md#mark) [c](#here)\n\n# Here", 0),
        ("![a](missing.png)", 1),
        ("[a](other.md#no-heading) [b](missing.md) [c](#there)", 3),
        ("| a |\n|---|\n| [b](missing.md) |", 1),
        ("`[a](missing.md)` [b](https://example.org/missing)", 0),
    ],
)
def test_a_broken_link_is_found(tmp_path, monkeypatch, text, broken):
    other = "# A heading, with `code`, is one\n\n## Twice\n\n## Twice\n\n(mark)=\n\nText.\n"
    (tmp_path / "other.md").write_text(other)
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert len(list(broken_links(tmp_path / "page.md"))) == broken


def described_on(page):
    """Return the full names that the autodoc directives of a page describe."""
    names, module, members = [], "", False
    for line in page.read_text().splitlines():
        directive = re.match(r"\.\. (currentmodule|auto\w+|py:data):: (\S+)", line)
        if directive:
            kind, name = directive.groups()
            members = kind == "automodule"
            if kind in ("currentmodule", "automodule"):
                module = name
            else:
                names.append(name if name.startswith("foreshock.") else f"{module}.{name}")
        elif members and (listed := re.match(r"   :members: (.+)", line)):
            names += [f"{module}.{name.strip()}" for name in listed[1].split(",")]
    return names


def test_every_public_name_is_described_on_one_page():
    pages = sorted((DOCS / "reference").glob("*.md"))
    described = Counter(name for page in pages for name in described_on(page))
    assert {name for name, count in described.items() if count > 1} == set()
    assert {f"foreshock.{name}" for name in foreshock.__all__} - set(described) == set()


@pytest.mark.parametrize("name", ["foreshock.dynamics", "foreshock.stability"])
def test_every_closed_form_is_described(name):
    described = set().union(*(described_on(page) for page in (DOCS / "reference").glob("*.md")))
    assert {f"{name}.{public}" for public in import_module(name).__all__} - described == set()


def test_every_page_of_the_reference_says_what_it_is_for():
    for page in (DOCS / "reference").glob("*.md"):
        tokens = MarkdownIt("commonmark").parse(page.read_text())
        assert [token.type for token in tokens[:4:3]] == ["heading_open", "paragraph_open"], page.name
        assert len(tokens[4].content) > 100, page.name


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Return the folder of the built pages: those that ``make docs`` has just built, if it says where."""
    if built := os.environ.get("FORESHOCK_SITE"):
        return Path(built)
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "link" and found.get("rel") not in ("stylesheet", "icon", "preload", "manifest"):
            return
        if tag != "a":
            self.addresses += [found[name] for name in ("src", "href", "data", "poster") if found.get(name)]
            self.addresses += re.findall(r"url\(([^)]+)\)", found.get("style") or "")


def is_foreign(address):
    return bool(urlsplit(address.strip(" '\"")).netloc)


@pytest.mark.slow
def test_a_page_fetches_nothing_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        fetched = Fetched()
        fetched.feed(page.read_text())
        assert len(fetched.addresses) > 3
        assert [address for address in fetched.addresses if is_foreign(address)] == [], page.name
    for style in site.rglob("*.css"):
        loaded = re.findall(r"url\(([^)]+)\)|@import\s+([^;]+)", style.read_text())
        assert [one for pair in loaded for one in pair if is_foreign(one)] == [], style.name


@pytest.mark.slow
def test_a_term_has_the_anchor_that_reports_link_to(site):
    ids = set(re.findall(r'id="(term-[^"]+)"', (site / "glossary.html").read_text()))
    assert ids >= {
        f"term-{name}"
        for name in (
            *("stability-ratio", "preconditioned-Hessian", "preconditioned-sharpness", "edge", "crossing"),
            *("edge-of-stability", "lag", "decay-exponent", "armed", "watch", "alarm", "announcement"),
            *("episode", "secant-curvature", "mean-square-ratio", "noise-factor", "alignment", "excess-loss"),
            *("gradient-directional-curvature", "spike", "severity", "height", "stage", "probe", "budget"),
            *("F", "guard", "policy", "raise", "raise-of-v", "held-out", "forecast-state"),
        )
    }


@pytest.mark.parametrize(
    ("formula", "complaint"),
    [(r"\frac{cη}{2}\,\hat H", ""), (r"\unheardof x", "unheardof"), (r"\frac{1}{2", "can't be converted")],
)
def test_a_formula_becomes_markup_or_a_warning(tmp_path, formula, complaint):
    pytest.importorskip("math_core")
    pytest.importorskip("sphinx")
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS / '_extensions')!r})\n"
        'extensions = ["mathml"]\nhtml_math_renderer = "mathml"\nhtml_theme = "basic"\n'
    )
    (tmp_path / "index.rst").write_text(f"Title\n=====\n\nInline :math:`{formula}`.\n\n.. math:: {formula}\n")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(tmp_path), str(tmp_path / "o")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    page = (tmp_path / "o" / "index.html").read_text()
    assert complaint in built.stderr
    assert (built.returncode != 0) == bool(complaint)
    assert page.count("<math") == (0 if complaint else 2)
    assert '<script src="http' not in page


# What is wider than the window, if it is no box that is meant to be scrolled by itself.
TOO_WIDE = """() => [document.scrollingElement, ...document.querySelectorAll(".main, .main *")]
  .filter(box => box.clientWidth > 1 && box.scrollWidth > box.clientWidth + 1)
  .filter(box => getComputedStyle(box).overflowX !== "visible")
  .filter(box => !box.closest(".table-wrapper, pre, div.math, .toc-drawer, .visually-hidden"))
  .map(box => `${box.tagName}.${box.className} ${box.scrollWidth}`)"""


@pytest.mark.browser
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs chromium")
def test_no_page_scrolls_sideways_on_a_telephone_or_asks_another_host(site, browser):
    page = browser.new_page(viewport={"width": 360, "height": 800})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: asked.append(f"console: {message.text}"))
    too_wide = {}
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360, path.name
        if found := page.evaluate(TOO_WIDE):
            too_wide[str(path.relative_to(site))] = found
    page.close()
    assert too_wide == {}
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.browser
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs chromium")
def test_what_is_too_wide_is_found(site, browser):
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto((site / "index.html").as_uri())
    page.evaluate("document.querySelector('article p').style.width = '900px'")
    assert page.evaluate(TOO_WIDE) != []
    page.close()
