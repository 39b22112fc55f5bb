"""What modules hold, to put it back: parameters, buffers, ``.grad``, modes, attributes that forward sets."""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from foreshock.isolation.copies import Copies, tensors_inside
from foreshock.isolation.moved import MovedMemory
from foreshock.isolation.random_numbers import GENERATORS

_SHARE = 4
"""Copies of frozen parameters and of other networks take so many times the memory of the trained parameters.

The vectors of a probe take several times that memory anyway. The frozen weights below a small adapter can be
a thousand times as large: of them a few values are remembered, and forward does not write into them.
"""
_LEAST_BUDGET = 2**26
_LONGEST = 10_000  # entries of a container that an attribute may be and still be put back
_CONTAINERS = (list, dict, set, deque, OrderedDict)  # their subclasses may do anything when they are copied
_VALUES = frozenset([type(None), bool, int, float, str])
_DICTIONARIES = ("_parameters", "_buffers", "_modules")
# Hooks are left alone: who registers one in forward removes it, too.
_LEFT_ALONE = frozenset([*_DICTIONARIES, *(name for name in vars(nn.Module()) if "hook" in name)])


class ModuleState:
    """The state of some modules and of all below them.

    Args:
        model: The model. Its trained parameters and its buffers are copied whatever their size.
        leave: Says of a tensor that its content is not this object's business.
        gradients: Whether ``.grad`` and ``requires_grad`` are.
        moved: Which parameters stood still in earlier probes; None to copy all.

    Attributes:
        generators: Random number generators that are attributes of a module.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        leave: Callable[[Tensor], bool] = lambda _: False,
        gradients: bool = True,
        moved: MovedMemory | None = None,
    ) -> None:
        self._leave, self._gradients = leave, gradients
        self._known: set[int] = set()
        self._modules: list[_SavedModule] = []
        self._parameters: list[tuple[Tensor, bool, Tensor | None]] = []
        self.generators: list[Any] = []
        self._cleared = 0
        self._managed = False  # whether parameters of any module are distributed tensors
        own = self._unknown(model)
        trained = [
            one
            for saved in own
            for kind, _, one in saved.tensors
            if kind == "parameter" and one.requires_grad
        ]
        size = sum(one.numel() * one.element_size() for one in trained)
        self._copies = Copies(budget=max(_SHARE * size, _LEAST_BUDGET), memory=moved)
        self._remember(own, owned=True)

    def add(self, module: nn.Module) -> None:
        """Remember a further module and all below it, unless it is known, and take away its gradients.

        Args:
            module: The module.
        """
        if id(module) not in self._known:
            self._remember(self._unknown(module), owned=False)
            self.clear_gradients()

    def clear_gradients(self) -> None:
        """Set ``.grad`` to None, once for each parameter: what is accumulated then goes into a new tensor."""
        first, self._cleared = self._cleared, len(self._parameters)
        for parameter, _, _ in self._parameters[first:]:
            parameter.grad = None

    def _unknown(self, module: nn.Module) -> list[_SavedModule]:
        """Return a module and all below it that are not known yet, as they are."""
        found: list[_SavedModule] = []
        waiting = [("", module)]
        while waiting:
            prefix, one = waiting.pop()
            if id(one) in self._known:
                continue
            self._known.add(id(one))
            found.append(_SavedModule(one, prefix))
            below = [(f"{prefix}{name}.", child) for name, child in one._modules.items() if child is not None]
            waiting += reversed(below)
        # FSDP2 exchanges the parameters of a module for whole ones and back, frees the memory of those that
        # are not in use, and keeps account of it: what a module refers to is its business then.
        self._managed = self._managed or any(map(_has_shards, found))
        if self._managed and any(hasattr(parameter, "to_local") for parameter in module.parameters()):
            return [_SavedModule(saved.module, saved.prefix, managed=True) for saved in found]
        return found

    def _remember(self, modules: Sequence[_SavedModule], *, owned: bool) -> None:
        for saved in modules:
            self._modules.append(saved)
            self.generators += saved.generators
            for kind, name, tensor in saved.tensors:
                must = owned and (kind == "buffer" or (kind == "parameter" and tensor.requires_grad))
                if kind == "parameter" and self._gradients:
                    self._parameters.append((tensor, tensor.requires_grad, tensor.grad))
                if not (saved.managed and kind == "parameter"):
                    self._add(saved.prefix + name, tensor, must=must, parameter=kind == "parameter")
        self._copies.take()

    def _add(self, name: str, tensor: Tensor, *, must: bool, parameter: bool) -> None:
        # Nobody changes the content of an attribute that is part of a graph, as the weight of weight norm.
        if not self._leave(tensor) and (tensor.is_leaf if parameter else not tensor.requires_grad):
            self._copies.add(name, tensor, must=must, parameter=parameter)

    @property
    def surprising(self) -> list[str]:
        """After `restore`: names of parameters that stood still in earlier probes, but not in this one."""
        return self._copies.surprising

    def restore(self) -> list[str]:
        """Put everything back; return the names of what changed and can't be."""
        for saved in self._modules:
            saved.restore()
        for tensor, required, gradient in self._parameters:
            if tensor.requires_grad != required:
                tensor.requires_grad_(required)
            tensor.grad = gradient
        return self._copies.restore()

    def restore_versions(self) -> None:
        """Set the version counters back."""
        self._copies.restore_versions()

    @property
    def tensors(self) -> list[Tensor]:
        """Parameters, buffers and attributes of all modules."""
        return [tensor for saved in self._modules for _, _, tensor in saved.tensors]

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters among them."""
        return [one for saved in self._modules for kind, _, one in saved.tensors if kind == "parameter"]

    def __iter__(self) -> Iterator[nn.Module]:
        """Yield the modules."""
        return (saved.module for saved in self._modules)


class _SavedModule:
    """What one module holds, without those below it.

    Args:
        module: The module.
        prefix: What the names of its tensors begin with.
        managed: Whether what it refers to is left alone.

    Attributes:
        tensors: Its tensors, each with what it is and its name.
        generators: Random number generators that are attributes.
    """

    def __init__(self, module: nn.Module, prefix: str, *, managed: bool = False) -> None:
        self.module, self.prefix, self.managed = module, prefix, managed
        self._training = module.training
        own = vars(module)
        self._own = {} if managed else own.copy()
        self.tensors: list[tuple[str, str, Tensor]] = []
        self.generators: list[Any] = []
        # A scripted module has dictionaries of its own kind.
        self._dictionaries = [
            (name, own[name].copy()) for name in _DICTIONARIES if type(self._own.get(name)) is dict
        ]
        self._containers: list[tuple[Any, Any]] = []
        for kind, held in (("parameter", "_parameters"), ("buffer", "_buffers")):
            items = own.get(held)
            if type(items) is not dict:
                items = dict(getattr(module, f"named{held}")(recurse=False))
            self.tensors += [(kind, key, tensor) for key, tensor in items.items() if tensor is not None]
        for name, value in self._own.items():
            if type(value) not in _VALUES and name not in _LEFT_ALONE:
                self._save_attribute(name, value)

    def _save_attribute(self, name: str, value: Any) -> None:
        inside: Iterable[Tensor] = ()
        if type(value) in _CONTAINERS:
            if len(value) <= _LONGEST:
                self._containers.append((value, value.copy()))
                inside = tensors_inside(value)
        elif isinstance(value, Tensor):
            inside = [value]
        elif isinstance(value, GENERATORS):
            self.generators.append(value)
        self.tensors += [("attribute", name, one) for one in inside if not isinstance(one, nn.Parameter)]

    def restore(self) -> None:
        """Put back what the module refers to; the content of tensors is not this class's business."""
        if self.managed:
            self.module.training = self._training
            return
        own = vars(self.module)
        for name, saved in self._dictionaries:
            _restore_items(own[name], saved)
        for container, content in self._containers:
            _restore_container(container, content)
        same = list(own) == list(self._own) and all(map(operator.is_, own.values(), self._own.values()))
        if not same:
            self._restore_attributes(own)

    def _restore_attributes(self, own: dict[str, Any]) -> None:
        for name in own.keys() - self._own.keys():
            del own[name]
        for name, value in self._own.items():
            if name not in _LEFT_ALONE and own.get(name, own) is not value:
                own[name] = value


def _has_shards(saved: _SavedModule) -> bool:
    return any(kind == "parameter" and hasattr(one, "to_local") for kind, _, one in saved.tensors)


def _restore_container(container: Any, saved: Any) -> None:
    if isinstance(container, dict):
        _restore_items(container, saved)
    elif isinstance(container, set):
        if container != saved:
            container.clear()
            container.update(saved)
    elif len(container) != len(saved) or not all(map(operator.is_, container, saved)):
        container.clear()
        container.extend(saved)


def _restore_items(items: dict[Any, Any], saved: dict[Any, Any]) -> None:
    # Order counts too: that of buffers is that of the state dict.
    if not items and not saved:
        return
    same = len(items) == len(saved) and all(map(operator.is_, items.values(), saved.values()))
    if not (same and list(items) == list(saved)):
        items.clear()
        items.update(saved)
