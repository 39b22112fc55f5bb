"""Snapshots on disk: a folder each, whole or not there.

A snapshot is written beside, every file is flushed to the disk, and the folder is moved into place last; so
that a full disk, ``kill -9`` or a power cut leaves what was there before. Nothing is pickled::

    RUN/snapshots/rank0-step00000120/tensors.safetensors   the tensors, by name
                                     state.json            all else
                                     manifest.json         size and SHA-256 of the two
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foreshock._version import __version__
from foreshock.recorder.encoding import UnsupportedStateError, dtype_of
from foreshock.recorder.form import check_form
from foreshock.recorder.snapshot import Snapshot
from foreshock.recorder.spread import REMEDY

FORMAT = 1
FOLDER = "snapshots"
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_LOGGER = logging.getLogger("foreshock")
# What safetensors has a type for; anything else is written as bytes, and its type beside.
_STORED = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip


def write_snapshot(snapshot: Snapshot, folder: Path, *, reason: str = "", rank: int = 0) -> Path:
    """Return the folder of a snapshot, written into a folder of snapshots.

    Args:
        snapshot: The snapshot.
        folder: Where snapshots lie; made if missing.
        reason: Why it is written, in words.
        rank: Rank of this process.

    Raises:
        OSError: If it can't be written; what was there before is untouched.
        ImportError: If safetensors is not installed.
    """
    save_file = _safetensors().save_file
    folder.mkdir(parents=True, exist_ok=True)
    name = f"rank{rank}-step{snapshot.step:08d}"
    target, number = folder / name, 1
    while target.exists():  # the same step again, after the run was resumed or rewound
        number += 1
        target = folder / f"{name}-{number}"
    # A process that was killed may have left some; no other writes those of this rank.
    for left in (*folder.glob(f".partial-rank{rank}-*"), *folder.glob(f".removed-rank{rank}-*")):
        shutil.rmtree(left, ignore_errors=True)
    partial = folder / f".partial-{target.name}"
    try:
        partial.mkdir()
        stored, types = _storable(snapshot.tensors)
        _written(save_file, stored, partial / _TENSORS)
        about = {
            "format": FORMAT,
            "foreshock": __version__,
            "torch": torch.__version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "reason": reason,
            "rank": rank,
        }
        state = {"step": snapshot.step, "ids": snapshot.ids, "types": types, "about": about}
        _dump({**state, "tree": snapshot.tree}, partial / _STATE)
        files = {name: _fingerprint(partial / name) for name in (_TENSORS, _STATE)}
        _dump({"format": FORMAT, "step": snapshot.step, "rank": rank, "files": files}, partial / _MANIFEST)
        _flush(partial)
        partial.rename(target)
        _flush(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def load_snapshot(path: str | os.PathLike[str], *, before: int | None = None, rank: int = 0) -> Snapshot:
    """Return a snapshot that was written, after its files were compared with their checksums.

    Args:
        path: Folder of a snapshot, or of a run: then the newest whole one of it.
        before: Of a run, the newest one of a step before this.
        rank: Of a run, the rank of the process that wrote it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the one that was named is damaged.
        ImportError: If safetensors is not installed.

    Example:
        >>> import tempfile
        >>> from foreshock.recorder import Recorder
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> recorder = Recorder()
        >>> recorder.attach(model, [optimizer])
        >>> recorder.take(120, loss=0.25)
        >>> with tempfile.TemporaryDirectory() as run:
        ...     _ = recorder.write(Path(run), reason="an example")
        ...     recorder.close()
        ...     snapshot = load_snapshot(run)
        >>> snapshot.step, snapshot.loss
        (120, 0.25)
        >>> snapshot.restore(model, optimizer)
    """
    place = Path(path)
    if (place / _MANIFEST).is_file():
        return _read(place)
    found = [one for one in list_snapshots(place, rank=rank) if before is None or step_of(one) < before]
    for one in reversed(found):
        try:
            return _read(one)
        except ValueError as error:
            _LOGGER.warning("%s: it is passed over", error)
    where = f" from before step {before}" if before is not None else ""
    others = _other_ranks(place, rank)
    if others and not found:
        raise FileNotFoundError(
            f"{place} has no snapshot of rank {rank}{where}, but of {', '.join(map(str, others))}: each "
            f"process restores its own, in a run of as many processes as wrote them. {REMEDY}"
        )
    raise FileNotFoundError(
        f"{place} has no whole snapshot{where}: pass the folder of a run that was trained with "
        "Monitor(..., run=…, recorder=Recorder()) and had an alarm, or of one of its snapshots"
    )


def list_snapshots(run: str | os.PathLike[str], *, rank: int = 0) -> tuple[Path, ...]:
    """Return the folders of the snapshots of a run, the latest step last.

    Args:
        run: Folder of the run.
        rank: Rank of the process whose snapshots are wanted.
    """
    found = Path(run, FOLDER).glob(f"rank{rank}-step*/{_MANIFEST}")
    return tuple(
        sorted(
            (one.parent for one in found if one.is_file()),
            key=lambda one: (step_of(one), len(one.name), one.name),
        )
    )


def _other_ranks(run: Path, rank: int) -> list[int]:
    names = {one.parent.name for one in Path(run, FOLDER).glob(f"rank*-step*/{_MANIFEST}")}
    ranks = {name.removeprefix("rank").partition("-step")[0] for name in names}
    return sorted({int(one) for one in ranks if one.isdecimal()} - {rank})


def oldest(snapshots: Sequence[Path], *, but: int) -> list[Path]:
    """Return those that were written first, all but so many.

    By time and not by step: a run that begins at step 0 again in the same folder needs its own snapshots.

    Args:
        snapshots: Their folders.
        but: How many to leave out, ≥ 1.
    """
    return sorted(snapshots, key=lambda one: (one / _MANIFEST).stat().st_mtime_ns)[:-but]


def remove_snapshot(path: Path) -> None:
    """Remove a snapshot, so that at no moment a part of it is taken for a whole.

    Args:
        path: Its folder.
    """
    aside = path.with_name(f".removed-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def step_of(path: Path) -> int:
    """Return the step of a snapshot by the name of its folder; −1 if it has none.

    Args:
        path: The folder.
    """
    digits = path.name.partition("-step")[2].partition("-")[0]
    return int(digits) if digits.isdecimal() else -1


def _read(path: Path) -> Snapshot:
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise UnsupportedStateError(
                f"the snapshot {path} has format {manifest['format']!r}, and this version reads {FORMAT}"
            )
        for name in (_TENSORS, _STATE):
            if not (path / name).is_file() or _fingerprint(path / name) != manifest["files"][name]:
                raise UnsupportedStateError(f"the snapshot {path} is damaged: {name} is not what was written")
        state = json.loads((path / _STATE).read_bytes())
        stored = _loaded(path / _TENSORS)
        tensors = {name: _as_it_was(one, state["types"].get(name)) for name, one in stored.items()}
        check_form(state, tensors)
        return Snapshot(state["step"], tensors, state["tree"], tuple(state["ids"]), path, state["about"])
    except (OSError, LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        if isinstance(error, UnsupportedStateError) and str(path) in str(error):
            raise
        raise UnsupportedStateError(
            f"the snapshot {path} is damaged: {type(error).__name__}: {error}; take another one of the run"
        ) from error


def _storable(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors of types that can be written, and what the others were."""
    stored, types = {}, {}
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if one.dtype not in _STORED:
            types[name] = {"dtype": str(one.dtype).removeprefix("torch."), "shape": list(one.shape)}
            one = one.reshape(-1).view(torch.uint8) if one.numel() else torch.zeros(0, dtype=torch.uint8)
        stored[name] = one
    return stored, types


def _as_it_was(stored: Tensor, kind: Mapping[str, Any] | None) -> Tensor:
    if kind is None:
        return stored
    dtype, shape = dtype_of(kind["dtype"]), kind["shape"]
    if stored.numel():
        return stored.view(dtype).reshape(shape)
    if 0 not in shape:  # memory is only taken for what was read
        raise ValueError(f"a tensor of shape {shape} has no content")
    return torch.zeros(shape, dtype=dtype)


def _written(save_file: Any, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except OSError:
        raise
    except Exception as error:  # safetensors has an error of its own for a full disk
        raise OSError(f"{path} can't be written: {error}") from error
    _flush(path)


def _loaded(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = _safetensors().load_file(path)
    except (ImportError, OSError):
        raise
    except Exception as error:  # safetensors has an error of its own for a file that is none of its
        raise ValueError(f"{path.name}: {error}") from error
    return found


def _dump(value: Any, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, allow_nan=False, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safetensors() -> Any:
    try:
        from safetensors import torch as safetensors
    except ImportError as error:
        raise ImportError(
            'snapshots need safetensors, which is not installed: pip install "foreshock[recorder]"'
        ) from error
    return safetensors
