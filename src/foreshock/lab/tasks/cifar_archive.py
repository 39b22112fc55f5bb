"""CIFAR-10 as its authors publish it: five pickled batches of arrays in a tar archive or a folder."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_SIDE = 32
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
                images.append(torch.from_numpy(row.reshape(3, _SIDE, _SIDE).copy()))
                labels.append(number)
    if not images:
        return torch.empty(0, 3, _SIDE, _SIDE), torch.empty(0, dtype=torch.int64)
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
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * _SIDE * _SIDE):
        raise ValueError(f"{where} has an array of shape {pixels.shape}, {pixels.dtype}: {_ALTERNATIVES}")
    return pixels, labels
