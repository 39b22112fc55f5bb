"""TensorBoard's and W&B's binary files: the framing is read here, what is in it by their own packages."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

_LARGEST_RECORD = 2**26  # bytes; a scalar has some dozens
_BLOCK = 2**15  # a .wandb file is a LevelDB log: blocks, each record in one or more chunks
_WANDB_HEAD = 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def tensorboard_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Return the scalars of a TensorBoard event file, up to where it is torn or damaged.

    Args:
        path: The file.

    Raises:
        ImportError: If ``tensorboard`` is missing.
        ValueError: If it is no event file.
    """
    _need("tensorboard", "TensorBoard's event files")
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    any_read = False
    with path.open("rb") as file:
        while (data := _tensorboard_record(file)) is not None:
            try:
                event = Event.FromString(data)
            except DecodeError as error:
                if any_read:
                    return
                raise ValueError(f"{path} is no event file of TensorBoard: {error}") from error
            any_read = True
            for value in event.summary.value:
                number = _scalar(value)
                if number is not None:
                    yield {"step": event.step, value.tag: number}
    if not any_read:
        raise ValueError(f"{path} is no event file of TensorBoard, or is empty")


def _tensorboard_record(file: IO[bytes]) -> bytes | None:
    head = file.read(12)
    if len(head) < 12:
        return None
    (length,) = struct.unpack("<Q", head[:8])
    if length > _LARGEST_RECORD:
        return None
    data = file.read(length + 4)
    return data[:length] if len(data) == length + 4 else None


def _scalar(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    if value.tensor.float_val:
        return float(value.tensor.float_val[0])
    content = value.tensor.tensor_content
    sizes = {1: "<f", 2: "<d"}  # DT_FLOAT, DT_DOUBLE
    form = sizes.get(value.tensor.dtype)
    if form is None or len(content) != struct.calcsize(form):
        return None
    return float(struct.unpack(form, content)[0])


def wandb_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Return the history of an offline run of W&B, up to where it is torn or damaged.

    Args:
        path: The ``.wandb`` file.

    Raises:
        ImportError: If ``wandb`` is missing.
        ValueError: If it is no such file.
    """
    _need("wandb", "offline runs of W&B")
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    with path.open("rb") as file:
        if not file.read(_WANDB_HEAD).startswith(b":W&B"):
            raise ValueError(f"{path} is no .wandb file of an offline run")
        for data in _wandb_records(file):
            try:
                record = Record.FromString(data)
            except DecodeError:
                return
            if record.WhichOneof("record_type") == "history":
                yield _history(record.history)


def _wandb_records(file: IO[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    while True:
        left = _BLOCK - file.tell() % _BLOCK
        if left < 7:
            file.read(left)
        head = file.read(7)
        if len(head) < 7:
            return
        _, length, kind = struct.unpack("<IHB", head)
        data = file.read(length)
        if len(data) < length or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            return
        parts = [*parts, data] if kind in (_MIDDLE, _LAST) else [data]
        if sum(map(len, parts)) > _LARGEST_RECORD:
            return
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []


def _history(history: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"_step": history.step.num} if history.HasField("step") else {}
    for item in history.item:
        try:
            row[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        except (ValueError, RecursionError):
            continue
    return row


def _need(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise ImportError(f'{what} are read with {package}: pip install "foreshock[{package}]"', name=package)
