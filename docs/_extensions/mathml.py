"""Formulas as MathML, converted while the site is built: pages need no script and no network for them."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LOGGER = logging.getLogger(__name__)
_CONVERTER = LatexToMathML(fancy_error=False)


def _markup(node: nodes.Element, *, block: bool) -> str:
    """Return a formula as MathML; one that can't be converted is a warning, which fails a build with -W."""
    source = node.astext()
    try:
        return _CONVERTER.convert_with_local_state(_lined_up(source) if block else source, displaystyle=block)
    except LatexError as error:
        _LOGGER.warning("the formula can't be converted to MathML: %s\n%s", error, source, location=node)
        return ""


def _lined_up(source: str) -> str:
    """Return a formula of several rows in the environment that TeX wants for them."""
    if r"\\" in source and r"\begin" not in source:
        return rf"\begin{{aligned}}{source}\end{{aligned}}"
    return source


def _visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(f'<span class="math">{_markup(node, block=False)}</span>')
    raise nodes.SkipNode


def _visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    # The box takes the keyboard's focus, because a formula wider than the screen is scrolled in it.
    self.body.append(self.starttag(node, "div", CLASS="math", tabindex="0"))
    self.body.append(f"{_markup(node, block=True)}</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer under the name ``mathml``."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
