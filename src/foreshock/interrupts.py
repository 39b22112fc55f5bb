"""What a command says when Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from foreshock.representation import printable


@contextlib.contextmanager
def saying_what_is_kept(kept: Callable[[], str]) -> Iterator[None]:
    r"""Say at Ctrl-C what is kept of what was done, and let the interrupt go on: exit status 130.

    Args:
        kept: Returns what is kept, in a sentence without a full stop; called when Ctrl-C comes.

    Example:
        >>> import contextlib, io
        >>> said = io.StringIO()
        >>> with contextlib.redirect_stderr(said), contextlib.suppress(KeyboardInterrupt):
        ...     with saying_what_is_kept(lambda: "3 results in runs/"):
        ...         raise KeyboardInterrupt
        >>> said.getvalue()
        'Interrupted. 3 results in runs/.\n'
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"Interrupted. {printable(kept())}.\n")
        raise
