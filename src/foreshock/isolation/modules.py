"""What modules hold, to put it back: parameters, buffers, ``.grad``, modes, attributes that forward sets."""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from foreshock.isolation.copies import Copies, tensors_inside
from foreshock.isolation.random_numbers import GENERATORS

_SHARE = 4
"""Copies of frozen parameters and of other networks take so many times the memory of the trained parameters.

The vectors of a probe take several times that memory anyway. The frozen weights below a small adapter can be
a thousand times as large: of them a few values are remembered, and forward does not write into them.
"""
_LEAST_BUDGET = 2**26
_LONGEST = 10_000  # entries of a container that an attribute may be and still be put back
_CONTAINERS = (list, dict, set, deque, OrderedDict)  # their subclasses may do anything when they are copied
_PLAIN = (type(None), bool, int, float, str, tuple, *_CONTAINERS)
_DICTIONARIES = ("_parameters", "_buffers", "_modules")
# Hooks are left alone: who registers one in forward removes it, too.
_LEFT_ALONE = frozenset([*_DICTIONARIES, *(name for name in vars(nn.Module()) if "hook" in name)])


class ModuleState:
    """The state of some modules and of all below them.

    Args:
        model: The model. Its trained parameters and its buffers are copied whatever their size.
        leave: Says of a tensor that its content is not this object's business.
        gradients: Whether ``.grad`` and ``requires_grad`` are.

    Attributes:
        generators: Random number generators that are attributes of a module.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        leave: Callable[[Tensor], bool] = lambda _: False,
        gradients: bool = True,
    ) -> None:
        self._leave, self._gradients = leave, gradients
        self._known: set[int] = set()
        self._modules: list[_SavedModule] = []
        self._parameters: list[tuple[Tensor, bool, Tensor | None]] = []
        size = sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
        self._copies = Copies(budget=max(_SHARE * size, _LEAST_BUDGET))
        self.generators: list[Any] = []
        self._cleared = 0
        self._remember(model, owned=True)

    def add(self, module: nn.Module) -> None:
        """Remember a further module and all below it, unless it is known, and take away its gradients.

        Args:
            module: The module.
        """
        self._remember(module, owned=False)
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Set ``.grad`` to None, once for each parameter: what is accumulated then goes into a new tensor."""
        first, self._cleared = self._cleared, len(self._parameters)
        for parameter, _, _ in self._parameters[first:]:
            parameter.grad = None

    def _remember(self, module: nn.Module, *, owned: bool) -> None:
        if id(module) in self._known:
            return
        # FSDP2 exchanges the parameters of a module for whole ones and back, frees the memory of those that
        # are not in use, and keeps account of it: what a module refers to is its business then.
        managed = any(hasattr(parameter, "to_local") for parameter in module.parameters())
        for name, one in module.named_modules():
            if id(one) in self._known:
                continue
            self._known.add(id(one))
            saved = _SavedModule(one, managed=managed)
            self._modules.append(saved)
            self.generators += saved.generators()
            for kind, key, tensor in saved.tensors():
                must = owned and (kind == "buffer" or (kind == "parameter" and tensor.requires_grad))
                if kind == "parameter" and self._gradients:
                    self._parameters.append((tensor, tensor.requires_grad, tensor.grad))
                if not (managed and kind == "parameter"):
                    self._add(f"{name}.{key}".lstrip("."), tensor, must=must, parameter=kind == "parameter")

    def _add(self, name: str, tensor: Tensor, *, must: bool, parameter: bool) -> None:
        # Nobody changes the content of an attribute that is part of a graph, as the weight of weight norm.
        if not self._leave(tensor) and (tensor.is_leaf if parameter else not tensor.requires_grad):
            self._copies.add(name, tensor, must=must)

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

    def __iter__(self) -> Iterator[nn.Module]:
        """Yield the modules."""
        return (saved.module for saved in self._modules)


class _SavedModule:
    """What one module holds, without those below it.

    Args:
        module: The module.
        managed: Whether what it refers to is left alone.
    """

    def __init__(self, module: nn.Module, *, managed: bool = False) -> None:
        self.module, self._managed = module, managed
        self._training = module.training
        own: dict[str, Any] = {} if managed else vars(module)
        # A scripted module has dictionaries of its own kind.
        self._dictionaries = {name: own[name].copy() for name in _DICTIONARIES if type(own.get(name)) is dict}
        self.attributes = {name: one for name, one in own.items() if name not in _LEFT_ALONE}
        self._names = set(own)
        self._containers = {
            name: one.copy()
            for name, one in self.attributes.items()
            if type(one) in _CONTAINERS and len(one) <= _LONGEST
        }

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Yield its tensors, each with what it is and its name."""
        for kind, name in (("parameter", "_parameters"), ("buffer", "_buffers")):
            held = self._dictionaries.get(name)
            if held is None:
                held = dict(getattr(self.module, f"named{name}")(recurse=False))
            yield from ((kind, key, tensor) for key, tensor in held.items() if tensor is not None)
        for name, value in self.attributes.items():
            if isinstance(value, Tensor) or name in self._containers:
                for tensor in tensors_inside(value):
                    if not isinstance(tensor, nn.Parameter):
                        yield "attribute", name, tensor

    def generators(self) -> Iterator[Any]:
        """Yield the random number generators that are attributes."""
        for value in self.attributes.values():
            if type(value) not in _PLAIN and isinstance(value, GENERATORS):
                yield value

    def restore(self) -> None:
        """Put back what the module refers to; the content of tensors is not this class's business."""
        if self.module.training != self._training:
            self.module.training = self._training
        if self._managed:
            return
        own = vars(self.module)
        for name, saved in self._dictionaries.items():
            _restore_items(own[name], saved)
        for name, container in self._containers.items():
            _restore_container(self.attributes[name], container)
        if own.keys() != self._names:
            for name in own.keys() - self._names:
                del own[name]
        for name, value in self.attributes.items():
            if own.get(name, own) is not value:
                own[name] = value


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
    same = len(items) == len(saved) and list(items) == list(saved)
    if not (same and all(map(operator.is_, items.values(), saved.values()))):
        items.clear()
        items.update(saved)
