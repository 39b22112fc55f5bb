"""Links to a name by any of the modules that export it, though it is described under one of them only."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def _find_home(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """Resolve ``foreshock.forecast.Forecast`` as the ``foreshock.Forecast`` that a page describes."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    if node.get("refdomain") != "py" or not module.startswith("foreshock"):
        return None
    try:
        found = getattr(import_module(module), name)
        home = f"{found.__module__}.{found.__qualname__}"
    except (ImportError, AttributeError):
        return None
    domain = env.domains.python_domain
    if home == f"{module}.{name}" or home not in domain.objects:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, content)


def setup(app: Sphinx) -> dict[str, Any]:
    """Ask it for references that nothing else resolves."""
    app.connect("missing-reference", _find_home)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
