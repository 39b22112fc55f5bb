"""CIFAR-10 as its authors publish it, or image files, its own or any, in a folder or a tar archive."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_cifar10(count: int, *, path: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Return the first images of CIFAR-10, equally many of each class as far as possible.

    Files count as images if they end in .jpg, .jpeg or .png and lie in a folder named after a class. They
    are taken in the order of their names, folders named train before all others. Or the authors' pickled
    batches, see `load_batches`.

    Where no folder has the name of a class, any images will do: the folders that hold some are the classes,
    the first ten by name, and each image is cut to its middle square and scaled to 32×32.

    Args:
        count: Number of images.
        path: Folder or tar archive; by default the value of the environment variable FORESHOCK_CIFAR10.

    Returns:
        Images of shape (count, 3, 32, 32) with values in [0, 1], and labels 0 to 9 of shape (count,).

    Raises:
        FileNotFoundError: If no path is given, or nothing is there.
        ValueError: If there are fewer than `count` images, one of CIFAR-10's is not 32×32, a file is no
            image, or the archive is damaged.
        ImportError: If Pillow is not installed.
    """
    place = _locate(path)
    if holds_batches(place):
        found, numbers = load_batches(place, dict(enumerate(_shares(count, CIFAR10_CLASSES).values())))
        _check_enough(len(found), count, place)
        return found, numbers
    classes = _classes(_names(place))
    wanted = _shares(count, classes)
    reader = _read_archive if place.is_file() else _read_folder
    images, labels = [], []
    for name, content in reader(place, wanted):
        images.append(_decode(content, name, fit=classes != CIFAR10_CLASSES))
        labels.append(classes.index(_class_of(name)))
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


def _names(place: Path) -> list[str]:
    if place.is_dir():
        return [file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()]
    with tarfile.open(place) as archive:
        return [member.name for member in archive.getmembers() if member.isfile()]


def _classes(names: list[str]) -> tuple[str, ...]:
    """Return the names of the classes: CIFAR-10's, or else the first ten folders that hold images."""
    folders = sorted({_class_of(name) for name in names if _is_image(name) and _class_of(name)})
    return CIFAR10_CLASSES if set(folders) & set(CIFAR10_CLASSES) else tuple(folders[: len(CIFAR10_CLASSES)])


def _shares(count: int, classes: tuple[str, ...]) -> dict[str, int]:
    per_class, extra = divmod(count, max(len(classes), 1))
    return {name: per_class + (i < extra) for i, name in enumerate(classes)}


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


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
        if _is_image(name) and left.get(_class_of(name), 0) > 0:
            left[_class_of(name)] -= 1
            chosen.append(name)
    return chosen


def _read_folder(place: Path, wanted: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    for name in _choose(_names(place), wanted):
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


def _decode(content: bytes, name: str, *, fit: bool) -> Tensor:
    try:
        pillow: Any = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ImportError(
            "Image files need Pillow, which is not installed. Install it with: pip install pillow"
        ) from error
    try:
        opened = pillow.open(io.BytesIO(content))
    except OSError as error:
        raise ValueError(f"{name} is no image that can be read ({error}); remove or replace it.") from error
    with opened as image:
        if fit:
            cut = (min(image.size),) * 2
            left, top = ((whole - part) // 2 for whole, part in zip(image.size, cut, strict=True))
            image = image.crop((left, top, left + cut[0], top + cut[1])).resize((SIDE, SIDE))
        if image.size != (SIDE, SIDE):
            raise ValueError(f"{name} is {image.size[0]}×{image.size[1]}; CIFAR-10 has {SIDE}×{SIDE} images.")
        pixels = bytearray(image.convert("RGB").tobytes())
    return torch.frombuffer(pixels, dtype=torch.uint8).reshape(SIDE, SIDE, 3).permute(2, 0, 1) / 255


BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_ALTERNATIVES = (
    "delete it so that it is fetched anew, pass another folder or archive, or use data='digits', which come "
    "with scikit-learn."
)


def holds_batches(place: Path) -> bool:
    """Return whether a folder or tar archive has CIFAR-10's first pickled batch.

    Args:
        place: The folder or archive.

    Raises:
        ValueError: If a file is no tar archive.
    """
    if place.is_dir():
        return any(place.rglob(BATCHES[0]))
    try:
        with tarfile.open(place) as archive:
            return any(PurePosixPath(name).name == BATCHES[0] for name in archive.getnames())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{place} is no whole tar archive ({error}): {_ALTERNATIVES}") from error


def load_batches(place: Path, wanted: dict[int, int]) -> tuple[Tensor, Tensor]:
    """Return the first images of each class.

    Args:
        place: Folder or tar archive with the pickled batches.
        wanted: Number of images by label.

    Returns:
        Images of shape (n, 3, 32, 32) with values in [0, 1], and labels of shape (n,); fewer than wanted if
        there are no more.

    Raises:
        ValueError: If a batch is missing or damaged.
    """
    left, images, labels = dict(wanted), [], []
    for name in BATCHES:
        if not any(left.values()):
            break
        pixels, numbers = _parse(_content(place, name), f"{name} in {place}")
        for row, number in zip(pixels, numbers, strict=True):
            if left.get(number, 0) > 0:
                left[number] -= 1
                images.append(torch.from_numpy(row.reshape(3, SIDE, SIDE).copy()))
                labels.append(number)
    if not images:
        return torch.empty(0, 3, SIDE, SIDE), torch.empty(0, dtype=torch.int64)
    return torch.stack(images) / 255, torch.tensor(labels, dtype=torch.int64)


def _content(place: Path, name: str) -> bytes:
    if place.is_dir():
        for found in sorted(place.rglob(name)):
            return found.read_bytes()
    else:
        try:
            with tarfile.open(place) as archive:
                for member in archive:
                    file = archive.extractfile(member) if PurePosixPath(member.name).name == name else None
                    if file is not None:
                        return file.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{place} is damaged ({error}): {_ALTERNATIVES}") from error
    raise ValueError(f"{place} has no {name}: {_ALTERNATIVES}")


class _ArraysOnly(pickle.Unpickler):
    """Read what CIFAR-10's batches are made of, and refuse all else: a pickle can run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if name == "_reconstruct" and module.endswith("core.multiarray"):
            return _reconstruct
        if (module, name) in allowed:
            return allowed[module, name]
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no batch of CIFAR-10 does")


def _reconstruct(kind: type[np.ndarray[Any, Any]], shape: tuple[int, ...], code: bytes) -> Any:
    return np.ndarray.__new__(kind, shape, np.dtype(code.decode() if isinstance(code, bytes) else code))


def _encode(text: str, codec: str) -> bytes:
    return text.encode(codec)


def _parse(content: bytes, where: str) -> tuple[np.ndarray[Any, Any], list[int]]:
    try:
        read = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = np.asarray(read[b"data"]), [int(label) for label in read[b"labels"]]
    except Exception as error:
        raise ValueError(f"{where} is damaged ({type(error).__name__}: {error}): {_ALTERNATIVES}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * SIDE * SIDE):
        raise ValueError(f"{where} has an array of shape {pixels.shape}, {pixels.dtype}: {_ALTERNATIVES}")
    return pixels, labels
