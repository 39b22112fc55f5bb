"""What a page would run or fetch, seen in its HTML: nothing of it may come from a log."""

from __future__ import annotations

import json
from html.parser import HTMLParser

_ADDRESSES = ("src", "href", "action", "data", "poster", "srcset", "xlink:href", "formaction")
# Of the template.
_ELEMENTS = frozenset(
    {"a", "body", "button", "caption", "code", "dd", "details", "div", "dl", "dt", "figcaption", "figure"}
    | {"footer", "h1", "h2", "h3", "head", "header", "html", "li", "link", "main", "meta", "nav", "noscript"}
    | {"p", "path", "script", "section", "span", "style", "summary", "svg", "table", "tbody", "td", "th"}
    | {"thead", "title", "tr", "ul"}
)


def scripts_of(page: str) -> frozenset[str]:
    """Return the texts of the scripts and styles of a page, without data.

    Args:
        page: The HTML.
    """
    return frozenset(_read(page).scripts)


def complaints(page: str, *, scripts: frozenset[str]) -> list[str]:
    """Return what a page has that its template does not bring.

    Args:
        page: The HTML.
        scripts: Scripts and styles of a page made of a sound log.
    """
    reader = _read(page)
    return reader.complaints + [f"a script {text[:80]!r}" for text in reader.scripts if text not in scripts]


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: list[str] = []
        self.complaints: list[str] = []
        self._inside = ""  # "code", "data" or ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if tag in ("script", "style"):
            self._inside = "data" if named.get("type") == "application/json" else "code"
        if tag not in _ELEMENTS:
            self.complaints.append(f"an element {tag!r}")
        if "http-equiv" in named:
            self.complaints.append("an order to the browser, http-equiv")
        for name, value in named.items():
            if name.startswith("on") or name in ("style", "srcdoc"):
                self.complaints.append(f"an attribute {name!r}")
            if name in _ADDRESSES and not (value.startswith("#") or value == "data:,"):
                self.complaints.append(f"an address {value[:80]!r}")

    def handle_data(self, data: str) -> None:
        if self._inside == "code":
            self.scripts.append(data)
        elif self._inside == "data":
            json.loads(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = ""
