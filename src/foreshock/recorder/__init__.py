"""The flight recorder: snapshots of a training in memory and on disk, which are put back bit by bit."""

from foreshock.recorder.encoding import UnsupportedStateError
from foreshock.recorder.files import list_snapshots, load_snapshot, write_snapshot
from foreshock.recorder.recorder import Recorder, RecorderSummary
from foreshock.recorder.snapshot import Snapshot

__all__ = [
    "Recorder",
    "RecorderSummary",
    "Snapshot",
    "UnsupportedStateError",
    "list_snapshots",
    "load_snapshot",
    "write_snapshot",
]
