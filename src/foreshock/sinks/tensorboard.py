"""TensorBoard: scalars, and alarms as text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreshock.sinks.metrics import alarm_title, prefixed
from foreshock.sinks.packages import need


class TensorBoard:
    """Write event files for TensorBoard; alarms stand under *Text*, as ``foreshock/alarms``.

    Args:
        folder: Where to: the folder that ``tensorboard --logdir`` is given, or one inside of it.

    Raises:
        ImportError: If ``tensorboard`` is not installed. TensorFlow is not needed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        need("tensorboard", "the TensorBoard sink")
        self._folder = Path(folder)
        self._writer: Any = None

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Write what a record has of the metrics, or an alarm.

        Args:
            kind: Kind of the record.
            record: Its fields.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in prefixed(kind, record).items()]
        if kind == "alarm":
            values.append(_text("foreshock/alarms", f"{alarm_title(record)}: {record.get('reason', '')}"))
        if values:
            self._add(values, int(record["step"]))

    def flush(self) -> None:
        """Write what has gathered to disk."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, values: list[Any], step: int) -> None:
        import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder), filename_suffix=".foreshock")
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


def _text(tag: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DataType

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DataType.DT_STRING, string_val=[text.encode()], tensor_shape=shape)
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
