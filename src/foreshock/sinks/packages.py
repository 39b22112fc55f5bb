"""The packages of the sinks: imported when a sink is made, before the training begins."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec


def need(package: str, what: str, *, extra: str = "") -> None:
    """Import a package, or refuse to go on without it.

    Args:
        package: Name that it is imported by.
        what: What needs it.
        extra: The extra that brings it; by default the one of its name.

    Raises:
        ImportError: If it is not installed, with the pip command.
    """
    if find_spec(package) is None:
        raise ImportError(
            f'{what} needs {package}: pip install "foreshock[{extra or package}]"', name=package
        )
    # Now and not in the thread of the sink: an import takes seconds of processor time from the training.
    import_module(package)
