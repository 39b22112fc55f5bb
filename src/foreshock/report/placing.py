"""Files that are complete from the moment they are there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def placed(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a file beside the wanted one to write to, and move it into place once it is complete.

    What was there before is replaced. If it was a link, the link is, and not the file that it leads to: a
    folder that came from somebody else may have links to anything. Devices are written to as they are.

    Args:
        path: The wanted file; its folder is made if missing.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_file():
        yield target
        return
    beside = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(target)) from error
    try:
        yield beside
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
