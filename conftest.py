"""Where a trainer is missing, its integration can't be imported, and its docstrings are not collected."""

from __future__ import annotations

from importlib.util import find_spec

_TRAINERS = ("accelerate", "lightning", "pytorch_lightning", "transformers")
collect_ignore = [f"src/foreshock/integrations/{name}.py" for name in _TRAINERS if find_spec(name) is None]
