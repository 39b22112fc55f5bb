"""Where images come from: a local folder or archive, the cache, the network, or scikit-learn's digits."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from foreshock.lab.tasks.cifar import CIFAR10_VARIABLE

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
CACHE_VARIABLE = "FORESHOCK_CACHE"
_SECONDS = 10
_LOGGER = logging.getLogger("foreshock")


@dataclass(frozen=True)
class ImageSource:
    """Where images come from.

    Attributes:
        data: "cifar10" or "digits".
        path: Folder or archive; None for the digits.
        notice: What a reader must know of it, in one sentence.
    """

    data: str
    path: str | None
    notice: str


def cached_archive() -> Path:
    """Return where a downloaded archive is kept: in FORESHOCK_CACHE, or in the user's cache folder."""
    folder = os.environ.get(CACHE_VARIABLE) or str(Path.home() / ".cache" / "foreshock")
    return Path(folder) / "cifar-10-python.tar.gz"


def find_images(data: str = "auto", path: str | None = None) -> ImageSource:
    """Return where the images of an experiment come from.

    Args:
        data: "cifar10", "digits" or "auto": CIFAR-10 if it is here or can be downloaded, else the digits.
        path: A folder or archive; None to look in FORESHOCK_CIFAR10, the cache and the network.

    Raises:
        FileNotFoundError: If CIFAR-10 is asked for and is not to be had.
        ValueError: If a download is damaged.
    """
    if data == "digits":
        return ImageSource("digits", None, "Images: scikit-learn's digits, as asked for.")
    given = path or os.environ.get(CIFAR10_VARIABLE)
    if given:
        return ImageSource("cifar10", given, f"Images: CIFAR-10 from {Path(given).name}.")
    try:
        archive = download()
    except OSError as error:
        if data == "cifar10":
            raise FileNotFoundError(_advice(error)) from error
        _LOGGER.warning("%s The digits stand in.", _advice(error))
        return ImageSource("digits", None, "Images: scikit-learn's digits, as CIFAR-10 was not to be had.")
    return ImageSource("cifar10", str(archive), "Images: CIFAR-10.")


def download(*, url: str = URL, md5: str = MD5) -> Path:
    """Return the cached archive of CIFAR-10, fetched (163 MB) if it is not there.

    Args:
        url: Where to fetch it.
        md5: Its checksum.

    Raises:
        OSError: If it can't be fetched.
        ValueError: If its checksum is another one; the damaged file is not kept.
    """
    target = cached_archive()
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    _LOGGER.warning("fetching CIFAR-10 from %s into %s", url, target.parent)
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer, partial.open("wb") as file:  # noqa: S310
            shutil.copyfileobj(answer, file)
        found = hashlib.md5(partial.read_bytes(), usedforsecurity=False).hexdigest()
        if found != md5:
            raise ValueError(
                f"what {url} sent has the md5 {found}, not {md5}: it is damaged and was thrown away. Try "
                f"again, pass a folder or archive as path, or set {CIFAR10_VARIABLE} to one."
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _advice(error: OSError) -> str:
    return (
        f"CIFAR-10 is not on this machine and can't be downloaded ({error}). Pass a folder or archive "
        f"as path, or set {CIFAR10_VARIABLE}: JPEG files, one folder a class, or cifar-10-python.tar.gz."
    )
