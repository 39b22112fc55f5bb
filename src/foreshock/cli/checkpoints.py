"""A saved checkpoint and two names → a model, its loss, its optimizer and its data, ready to be measured."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.cli.optimizer_states import load_optimizer_state

_MODEL_KEYS = ("model", "model_state_dict", "state_dict", "module")
_PREFIXES = ("module.", "model.")
_OPTIMIZER_KEYS = ("optimizer", "optimizer_state_dict", "optim", "optimizers", "optimizer_states")


@dataclass(frozen=True)
class Trainable:
    """What a factory makes.

    Attributes:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        optimizer: Its optimizer; None if the factory makes none.
    """

    model: nn.Module
    loss_fn: Callable[[nn.Module, Any], Tensor]
    optimizer: Optimizer | None = None


def import_named(name: str) -> Any:
    """Import an object by ``module:object``; modules are also looked for in the working folder.

    Args:
        name: For instance ``train:make_model`` or ``package.module:factory``.

    Raises:
        ValueError: If the name has another form, or there is no such object.
        ImportError: If there is no such module, or it can't be imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{name!r} must have the form module:object, for instance train:make_model")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module = _import_module(module_name)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        there = ", ".join(name for name in vars(module) if not name.startswith("_"))
        raise ValueError(
            f"module {module_name} ({module.__file__}) has no {attribute!r}; it has {there}"
        ) from error


def make_trainable(name: str) -> Trainable:
    """Call a factory and complete what it returns.

    Args:
        name: ``module:factory``. The factory takes no arguments and returns ``model``, ``(model, loss_fn)``
            or ``(model, loss_fn, optimizer)``; for a model alone, ``loss_fn`` of the same module is used.

    Raises:
        ValueError: If there is no such factory, or no loss function.
        TypeError: If the factory returns something else, or takes arguments.
        RuntimeError: If the factory fails.
    """
    return as_trainable(name, call_named(name))


def call_named(name: str) -> Any:
    """Return what a factory returns.

    Args:
        name: ``module:factory``; it takes no arguments.

    Raises:
        ValueError: If there is no such factory.
        TypeError: If it takes arguments.
        RuntimeError: If it fails.
    """
    return _call(name, import_named(name))


def as_trainable(name: str, made: Any) -> Trainable:
    """Complete what a factory returned; see `make_trainable`.

    Args:
        name: Name of the factory.
        made: ``model``, ``(model, loss_fn)`` or ``(model, loss_fn, optimizer)``.

    Raises:
        ValueError: If there is no loss function.
        TypeError: If it is something else.
    """
    parts = made if isinstance(made, tuple) else (made,)
    model = parts[0] if parts else None
    if not isinstance(model, nn.Module) or len(parts) > 3:
        raise TypeError(
            f"{name} returned {type(made).__name__}; it must return a model, (model, loss_fn) or "
            "(model, loss_fn, optimizer)"
        )
    loss_fn = parts[1] if len(parts) > 1 else _loss_beside(name)
    if not callable(loss_fn):
        raise TypeError(f"{name} returned {loss_fn!r} as its loss; it must be loss_fn(model, batch) -> loss")
    optimizer = parts[2] if len(parts) > 2 else None
    if not isinstance(optimizer, Optimizer | None):
        raise TypeError(
            f"{name} returned {type(optimizer).__name__} as its optimizer; it must be a "
            "torch.optim.Optimizer, made of the model's parameters"
        )
    return Trainable(model, loss_fn, optimizer)


def load_checkpoint(path: str | Path, into: Trainable) -> None:
    """Load model and optimizer from a file made by ``torch.save``, tensors and plain values only.

    Args:
        path: The checkpoint: a model's state dict, or a dictionary that has one as ``model``,
            ``model_state_dict`` or ``state_dict``, and the optimizer's as ``optimizer``,
            ``optimizer_state_dict`` or ``optim``.
        into: What is loaded into.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is no checkpoint, does not fit, or lacks the optimizer state that is needed.
    """
    content = read_checkpoint(path)
    try:
        into.model.load_state_dict(_real_where(into.model, _as_named_by(into.model, weights_of(content))))
    except Exception as error:  # torch checks little: anything may be in the file
        words = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit the model: {words}") from error
    if into.optimizer is None:
        return
    saved = optimizer_state_of(content)
    if saved is None:
        raise ValueError(
            f"{path} has no optimizer state (its keys: {', '.join(map(str, content))}); let the factory "
            "return no optimizer to measure the Hessian without a preconditioner"
        )
    try:
        load_optimizer_state(into.optimizer, saved)
    except ValueError as error:
        raise ValueError(f"{path} does not fit the optimizer of the factory: {error}") from error


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Return what a file made by ``torch.save`` holds, tensors and plain values only.

    Args:
        path: The checkpoint.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is no checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises an OSError without a name, too, for a file that was damaged.
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path} {_why_unreadable(error)}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} has a {type(content).__name__}; a dictionary of state dicts is needed")
    return content


def weights_of(content: Mapping[str, Any]) -> Any:
    """Return the model's state dict of a checkpoint: the one that it has by a known name, else all of it.

    Args:
        content: What the file holds.
    """
    state = _first_of(content, _MODEL_KEYS)
    return content if state is None else state


def optimizer_state_of(content: Mapping[str, Any]) -> Any:
    """Return the optimizer's state dict of a checkpoint, of several the first; None without one.

    Args:
        content: What the file holds.
    """
    saved = _first_of(content, _OPTIMIZER_KEYS)
    return saved[0] if isinstance(saved, list) and saved else saved


def load_batches(name: str, *, limit: int | None = None) -> list[Any]:
    """Return the batches that a name stands for.

    Args:
        name: ``module:batches``: an iterable of batches, or a function without arguments that returns one.
        limit: Take so many batches at most, ≥ 1; None for all.

    Raises:
        ValueError: If there is no such object, or it has no batches.
        TypeError: If it is not iterable, or a function that takes arguments.
        RuntimeError: If the function, or the iteration over its batches, fails.
    """
    batches = open_batches(name)
    try:
        taken = list(islice(batches, limit))
    except Exception as error:
        raise RuntimeError(f"{name} failed: {_where(error)}") from error
    if not taken:
        raise ValueError(f"{name} gives no batches")
    return taken


def open_batches(name: str) -> Iterable[Any]:
    """Return what a name stands for, which may go on without end.

    Args:
        name: ``module:batches``: an iterable of batches, or a function without arguments that returns one.

    Raises:
        ValueError: If there is no such object.
        TypeError: If it is not iterable, or a function that takes arguments.
        RuntimeError: If the function fails.
    """
    source = import_named(name)
    made = callable(source) and not isinstance(source, Iterable)
    batches: Iterable[Any] = _call(name, source) if made else source
    if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes, Tensor)):
        raise TypeError(f"{name} gives {type(batches).__name__}; it must give an iterable of batches")
    return batches


def saying_where(loss_fn: Callable[[nn.Module, Any], Tensor]) -> Callable[[nn.Module, Any], Tensor]:
    """Return a loss function of the user's whose failures become a RuntimeError that says where.

    Args:
        loss_fn: ``loss_fn(model, batch)`` → mean loss.
    """

    def loss(model: nn.Module, batch: Any) -> Tensor:
        try:
            return loss_fn(model, batch)
        except RuntimeError:  # torch's own, of shapes and memory, which say enough
            raise
        except Exception as error:
            raise RuntimeError(f"the loss function failed: {_where(error)}") from error

    return loss


def _as_named_by(model: nn.Module, state: Any) -> Any:
    """Return a state with the names of a model: wrappers put prefixes before them.

    ``torch.compile`` names what it wraps ``_orig_mod.``, data parallelism ``module.``, a LightningModule
    usually ``model.``. What a checkpoint has beside the model, such as a loss with buffers, is left out. A
    state that has the names already, or has them under no prefix, is returned itself.
    """
    own = set(model.state_dict())
    if not isinstance(state, Mapping) or own <= set(state):
        return state
    bare: dict[str, Any] = {}
    for name, value in state.items():
        short = str(name).replace("_orig_mod.", "")
        while short not in own and short.startswith(_PREFIXES):
            short = short.partition(".")[2]
        bare.setdefault(short, value)
    return {name: bare[name] for name in own} if own <= set(bare) else state


def _why_unreadable(error: Exception) -> str:
    """Return why torch could not read a file; torch's own advice is to let the file run code."""
    save = (
        "save state dicts, not whole objects: torch.save({'model': model.state_dict(), 'optimizer': …}, path)"
    )
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused is not None:
        return (
            f"holds a {refused[1]}, which could run code, and is not loaded; {save}, and vars(args) for args"
        )
    words = str(error)
    why = "" if not words or "weights_only" in words else f" ({words})"
    return f"can't be read as a checkpoint of tensors and plain values{why}; {save}"


def _real_where(model: nn.Module, state: Any) -> Any:
    """Return a state; refuse complex tensors where the model's are real: torch drops the imaginary part."""
    own = model.state_dict()
    for name, value in state.items() if isinstance(state, Mapping) else ():
        known = own.get(name)
        if (
            isinstance(value, Tensor)
            and isinstance(known, Tensor)
            and value.is_complex() > known.is_complex()
        ):
            raise ValueError(f"{name} is {value.dtype}, the model's is {known.dtype}")
    return state


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ImportError(f"{name} can't be imported: {error}") from error
        raise ImportError(
            f"there is no module {name!r}: give a file of the working folder ({Path.cwd()}) without .py, or "
            "an installed module"
        ) from error
    except Exception as error:
        raise ImportError(f"{name} can't be imported: {_where(error)}") from error


def _call(name: str, function: Any) -> Any:
    """Return what a function of the user's returns; its failure becomes one line that says where."""
    if not callable(function):
        raise TypeError(f"{name} is {type(function).__name__}; it must be a function without arguments")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise TypeError(
            f"{name} is called without arguments, but {error}: wrap it in a function without arguments"
        ) from error
    except ValueError:  # a function of C has no signature to ask
        pass
    try:
        return function()
    except Exception as error:
        raise RuntimeError(f"{name} failed: {_where(error)}") from error


def _where(error: Exception) -> str:
    """Return an error with its type, and the last line of Python outside torch that it passed."""
    every = traceback.extract_tb(error.__traceback__)
    inside = str(Path(torch.__file__).parent)
    frames = [frame for frame in every if not frame.filename.startswith(inside)] or every
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _loss_beside(name: str) -> Any:
    module_name = name.partition(":")[0]
    loss_fn = getattr(importlib.import_module(module_name), "loss_fn", None)
    if loss_fn is None:
        raise ValueError(
            f"{name} returned a model alone and module {module_name} has no loss_fn; return "
            "(model, loss_fn), or define loss_fn(model, batch) there"
        )
    return loss_fn


def _first_of(content: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((content[key] for key in keys if key in content), None)
