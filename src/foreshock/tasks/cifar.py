"""CIFAR-10 as its authors publish it, or from JPEG files, in a folder or a tar archive."""

from __future__ import annotations

import importlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from foreshock.tasks.cifar_archive import holds_batches, load_batches

CIFAR10_VARIABLE = "FORESHOCK_CIFAR10"
"""Environment variable with the folder or archive, read when no path is passed."""

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIDE = 32


def load_cifar10(count: int, *, path: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Return the first images of CIFAR-10, equally many of each class as far as possible.

    Files count as images if they end in .jpg or .jpeg and lie in a folder named after a class. They
    are taken in the order of their names, folders named train before all others. Or the authors' pickled
    batches, see `load_batches`.

    Args:
        count: Number of images.
        path: Folder or tar archive; by default the value of the environment variable FORESHOCK_CIFAR10.

    Returns:
        Images of shape (count, 3, 32, 32) with values in [0, 1], and labels 0 to 9 of shape (count,).

    Raises:
        FileNotFoundError: If no path is given, or nothing is there.
        ValueError: If there are fewer than `count` images, one is not 32×32, or the archive is damaged.
        ImportError: If Pillow is not installed.
    """
    place = _locate(path)
    per_class, extra = divmod(count, len(CIFAR10_CLASSES))
    wanted = {name: per_class + (i < extra) for i, name in enumerate(CIFAR10_CLASSES)}
    if holds_batches(place):
        found, numbers = load_batches(place, dict(enumerate(wanted.values())))
        _check_enough(len(found), count, place)
        return found, numbers
    reader = _read_archive if place.is_file() else _read_folder
    images, labels = [], []
    for name, content in reader(place, wanted):
        images.append(_decode(content, name))
        labels.append(CIFAR10_CLASSES.index(_class_of(name)))
    _check_enough(len(images), count, place)
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)


def _locate(path: str | Path | None) -> Path:
    given = path if path is not None else os.environ.get(CIFAR10_VARIABLE)
    if not given:
        raise FileNotFoundError(
            "CIFAR-10 is not part of Foreshock. Pass path=, or set the environment variable "
            f"{CIFAR10_VARIABLE}, to a folder or tar archive of JPEG files with one folder for each class."
        )
    place = Path(given)
    if not place.exists():
        raise FileNotFoundError(f"There is no CIFAR-10 at {place}; check path= or {CIFAR10_VARIABLE}.")
    return place


def _check_enough(found: int, count: int, place: Path) -> None:
    if found < count:
        raise ValueError(
            f"{count} images were asked for, but {place} has only {found} usable ones; ask for fewer, pass "
            "another folder or archive, or use data='digits'."
        )


def _class_of(name: str) -> str:
    return PurePosixPath(name).parent.name


def _choose(names: list[str], wanted: dict[str, int]) -> list[str]:
    """Return the first names of each class; the order is independent of the archive's."""
    left = dict(wanted)
    chosen = []
    for name in sorted(names, key=lambda name: ("train" not in PurePosixPath(name).parts, name)):
        is_image = PurePosixPath(name).suffix.lower() in (".jpg", ".jpeg")
        if is_image and left.get(_class_of(name), 0) > 0:
            left[_class_of(name)] -= 1
            chosen.append(name)
    return chosen


def _read_folder(place: Path, wanted: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    names = [file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()]
    for name in _choose(names, wanted):
        yield name, (place / name).read_bytes()


def _read_archive(place: Path, wanted: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(place) as archive:
        chosen = _choose([member.name for member in archive.getmembers() if member.isfile()], wanted)
        # Members are read in the archive's order, one pass over the compressed stream, then sorted back.
        rank = {name: i for i, name in enumerate(chosen)}
        found: dict[int, tuple[str, bytes]] = {}
        for member in archive.getmembers():
            file = archive.extractfile(member) if member.name in rank else None
            if file is not None:
                found[rank[member.name]] = (member.name, file.read())
        yield from (found[i] for i in range(len(chosen)))


def _decode(content: bytes, name: str) -> Tensor:
    try:
        pillow: Any = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ImportError(
            "CIFAR-10's JPEG files need Pillow, which is not installed. Install it with: pip install pillow"
        ) from error
    with pillow.open(io.BytesIO(content)) as image:
        if image.size != (SIDE, SIDE):
            raise ValueError(f"{name} is {image.size[0]}×{image.size[1]}; CIFAR-10 has {SIDE}×{SIDE} images.")
        pixels = bytearray(image.convert("RGB").tobytes())
    return torch.frombuffer(pixels, dtype=torch.uint8).reshape(SIDE, SIDE, 3).permute(2, 0, 1) / 255
