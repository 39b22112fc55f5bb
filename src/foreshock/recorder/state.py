"""What a training consists of between ``backward()`` and ``step()``, as JSON and named tensors; and back.

Tensors are called ``parameter/NAME``, ``buffer/NAME``, ``gradient/NAME``, ``optimizer/0/NAME/exp_avg`` and so
on, by the names of the model.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

from foreshock.isolation import plain_module
from foreshock.isolation.random_numbers import GENERATORS, generator_state, set_generator_state
from foreshock.recorder.encoding import Copies, NamedTensors, UnsupportedStateError, decode, encode
from foreshock.recorder.model_state import capture_model, check_model, put_back_model, with_extra_state
from foreshock.recorder.optimizer_state import capture_optimizer, check_optimizers, put_back_optimizer

RANDOM, GRADIENTS, SCALING, LAYOUTS = "random", "gradients", "scaling", "layouts"


@dataclass(frozen=True)
class Training:
    """A training that is recorded, or put back.

    Attributes:
        model: The model.
        optimizers: Its optimizers, in an order that stays.
        others: Whatever else has a state, by name: schedulers, a gradient scaler, an average of the weights,
            generators of random numbers.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer]
    others: Mapping[str, Any]


def bare(model: nn.Module) -> nn.Module:
    """Return the module inside of torch.compile and DistributedDataParallel, whose names are the user's.

    Args:
        model: The model.
    """
    inner = plain_module(model)
    module: nn.Module = getattr(inner, "_orig_mod", inner)
    return module


def capture(training: Training) -> tuple[dict[str, Any], NamedTensors]:
    """Return the state of a training: plain JSON, and its live tensors by name, which are not copied.

    Args:
        training: The training, between ``backward()`` and ``step()``.

    Raises:
        UnsupportedStateError: If some of it can't be recorded exactly.
    """
    model, tensors = bare(training.model), NamedTensors()
    tree: dict[str, Any] = {"model": capture_model(model, tensors)}
    names = _names(model)
    tree["optimizers"] = [
        capture_optimizer(optimizer, f"optimizer/{index}", names, tensors)
        for index, optimizer in enumerate(training.optimizers)
    ]
    tree["others"] = {
        name: encode(_state_of(one, name), f"other/{name}", tensors) for name, one in training.others.items()
    }
    tree[SCALING] = encode(_scaling(training), SCALING, tensors)
    tree[RANDOM] = encode(_random_state(), RANDOM, tensors)
    if tensors.layouts:
        tree[LAYOUTS] = dict(tensors.layouts)
    return tree, tensors


def check(tree: Mapping[str, Any], tensors: Mapping[str, Tensor], training: Training) -> None:
    """Refuse to put a state into a training that it does not fit; nothing is changed.

    Args:
        tree: Of `capture`.
        tensors: Of `capture`.
        training: Where it is to go.

    Raises:
        UnsupportedStateError: With what differs, and what to do.
    """
    model = bare(training.model)
    check_model(model, tensors, tree.get(LAYOUTS, {}))
    check_optimizers(tree["optimizers"], training.optimizers, _names(model))
    if tree["others"].keys() != training.others.keys():
        raise UnsupportedStateError(
            f"beside model and optimizer the snapshot has the state of {_listed(tree['others'])}, and what "
            f"is to be restored is {_listed(training.others)}: pass the same as scheduler=, scaler= and "
            "others=, or name in without= what is to be left as it is"
        )
    for name, one in training.others.items():
        _state_of(one, name)
    _check_random(decode(tree[RANDOM], tensors))


class Restoration:
    """A state on its way into a training: made, it has loaded what may refuse it; `finish` does the rest.

    Schedulers, scalers and modules with an extra state run code of the user's own. If that refuses, all of
    them are put back, and no tensor was touched. In between, processes can agree that none refused.

    Args:
        tree: Of `capture`; `check` let it pass.
        tensors: Of `capture`, on any device.
        training: Where it goes.
        without: ``"random"``, ``"gradients"``: to leave these as they are.

    Raises:
        UnsupportedStateError: If a part refuses its state; then nothing was changed.
    """

    def __init__(
        self,
        tree: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        training: Training,
        *,
        without: Collection[str] = (),
    ) -> None:
        self._tree, self._tensors, self._training, self._without = tree, tensors, training, without
        self._undo: list[Callable[[], None]] = []
        copies, model = Copies(tensors), bare(training.model)
        for name, one in training.others.items():
            put = partial(_set_state, one, model)
            self._load(repr(name), put, decode(tree["others"][name], copies), _state_of(one, name))
        for name, module in with_extra_state(model):
            if name in tree["model"]["extra"]:
                saved = decode(tree["model"]["extra"][name], copies)
                self._load(f"module {name!r}", module.set_extra_state, saved, module.get_extra_state())

    def undo(self) -> None:
        """Put back what was loaded so far: nothing was restored."""
        while self._undo:
            with contextlib.suppress(Exception):  # the first error is the one to be told
                self._undo.pop()()

    @torch.no_grad()
    def finish(self) -> None:
        """Put everything else back. Tensors are written in place where they fit."""
        tree, tensors, training = self._tree, self._tensors, self._training
        model, gradients = bare(training.model), GRADIENTS not in self._without
        put_back_model(tree["model"], model, tensors, gradients=gradients)
        for state, optimizer in zip(tree["optimizers"], training.optimizers, strict=True):
            put_back_optimizer(state, optimizer, _names(model), tensors, tree.get(LAYOUTS, {}))
        if gradients:
            _set_scaling(training, decode(tree[SCALING], Copies(tensors)))
        if RANDOM not in self._without:
            _set_random_state(decode(tree[RANDOM], Copies(tensors)))

    def _load(self, what: str, put: Callable[[Any], None], saved: Any, present: Any) -> None:
        self._undo.append(partial(put, copy.deepcopy(present)))
        try:
            put(saved)
        except Exception as error:
            self.undo()
            raise UnsupportedStateError(
                f"the state of {what} can't be put back: {type(error).__name__}: {error}. Make it as it was "
                "when it was recorded, or name it in without="
            ) from error


def _names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _listed(names: Collection[str]) -> str:
    return " and ".join(map(repr, names)) if names else "nothing"


def _state_of(one: Any, name: str) -> Any:
    if isinstance(one, GENERATORS):
        return generator_state(one)
    if not hasattr(one, "state_dict") or not hasattr(one, "load_state_dict"):
        raise UnsupportedStateError(
            f"{name!r} is a {type(one).__name__}, which has no state_dict() and load_state_dict(): pass what "
            "has both, or a generator of random numbers"
        )
    return one.state_dict()


def _set_state(one: Any, model: nn.Module, state: Any) -> None:
    if isinstance(one, GENERATORS):
        set_generator_state(one, state)
        return
    if isinstance(one, torch.amp.GradScaler) and one._scale is None:
        # Its tensors are made by the first scale(), which would come after the step that is due.
        one.scale(torch.zeros((), device=next(model.parameters()).device))
    one.load_state_dict(state)


def _scaling(training: Training) -> dict[str, Any]:
    """Return which optimizers' gradients a scaler has divided already in this step, and what it found."""
    states = getattr(training.others.get("scaler"), "_per_optimizer_states", {})
    return {
        str(index): (
            states[id(optimizer)]["stage"].name,
            {str(device): found for device, found in states[id(optimizer)]["found_inf_per_device"].items()},
        )
        for index, optimizer in enumerate(training.optimizers)
        if id(optimizer) in states
    }


def _set_scaling(training: Training, scaling: Mapping[str, Any]) -> None:
    """Put back what `_scaling` returned: gradients that were divided must not be divided again."""
    states = getattr(training.others.get("scaler"), "_per_optimizer_states", None)
    if states is None:
        return
    for index, optimizer in enumerate(training.optimizers):
        stage, found = scaling.get(str(index), (OptState.READY.name, {}))
        on_device = {torch.device(device): one.to(device) for device, one in found.items()}
        states[id(optimizer)] = {"stage": OptState[stage], "found_inf_per_device": on_device}


def _random_state() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "torch": torch.get_rng_state(),
        "cuda": {index: torch.cuda.get_rng_state(index) for index in devices},
        "numpy": np.random.get_state(),
        "python": (version, np.array(internal, dtype=np.uint32), gauss),
    }


def _check_random(state: Mapping[str, Any]) -> None:
    """Refuse random numbers that some generator would not take, by trying them on others."""
    try:
        torch.Generator().set_state(state["torch"])
        np.random.RandomState(0).set_state(state["numpy"])
        version, internal, gauss = state["python"]
        random.Random().setstate((version, tuple(internal.tolist()), gauss))  # noqa: S311
        for index, one in state["cuda"].items():
            if type(index) is not int or not isinstance(one, Tensor):
                raise TypeError(f"cuda has {index!r}")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UnsupportedStateError(
            f"the snapshot's random numbers are damaged: {type(error).__name__}: {error}; take another one"
        ) from error


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    for index, one in state["cuda"].items():
        if torch.cuda.is_available() and index < torch.cuda.device_count():
            torch.cuda.set_rng_state(one, index)
    np.random.set_state(state["numpy"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
