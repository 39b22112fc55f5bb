"""Which reader an optimizer has: the registered ones, and those that are built in."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from torch import optim
from torch.optim import Optimizer

from foreshock.preconditioner.families import BUILT_IN, REFUSED
from foreshock.preconditioner.live import Reader, qualified_name, unwrap

# Readers that users have registered, by class. They take precedence over the built-in ones.
_READERS: dict[type[Optimizer], Reader] = {}
# Classes of which users have said whose step they take: their own ``step`` calls it, and does no other.
_STEP_OF: dict[type[Optimizer], type[Optimizer]] = {}


def register_preconditioner(optimizer_class: type[Optimizer], reader: Reader | type[Optimizer]) -> None:
    """Register how to read an optimizer class that is not built in, or replace the reader of one that is.

    For a subclass whose ``step`` calls that of its base and leaves the update as it is, name the base. A
    monitor needs `Reader.step`. A guard also needs `Reader.raise_second_moment`, and follows the lag only
    of an optimizer with a `Reader.second_moment`.

    Args:
        optimizer_class: The class; subclasses that do not override ``step`` are read the same way.
        reader: How to read it, or the base class whose step it takes. Test it by comparing
            `ParameterStep.displacement` with a real step.

    Raises:
        TypeError: If `optimizer_class` is not an optimizer class, or `reader` neither a `Reader` of functions
            nor a base of it that can be read.

    Example:
        An optimizer whose step is that of one that is known, under a ``step`` of its own:

        >>> import torch
        >>> from foreshock.preconditioner import read_preconditioner, register_preconditioner
        >>> class Counted(torch.optim.AdamW):
        ...     def step(self, closure=None):
        ...         return super().step(closure)
        >>> register_preconditioner(Counted, torch.optim.AdamW)
        >>> weight = torch.ones(3, requires_grad=True)
        >>> optimizer = Counted([weight], lr=0.1)
        >>> weight.square().sum().backward()
        >>> predicted = weight.detach() + read_preconditioner(optimizer).displacement()
        >>> optimizer.step()
        >>> torch.allclose(weight, predicted)
        True
    """
    if not (inspect.isclass(optimizer_class) and issubclass(optimizer_class, Optimizer)):
        raise TypeError(
            f"{optimizer_class!r} is not a subclass of torch.optim.Optimizer; pass the class, not an instance"
        )
    if inspect.isclass(reader):
        _STEP_OF[optimizer_class] = _readable_base(optimizer_class, reader)
        _READERS.pop(optimizer_class, None)
        return
    if not isinstance(reader, Reader):
        raise TypeError(
            f"reader is {reader!r}; pass a foreshock.Reader(step=...), which holds the functions, or the "
            "base class whose step is taken"
        )
    for part, function in vars(reader).items():
        if part in ("step", "second_moment", "raise_second_moment") and not (
            callable(function) or (part == "raise_second_moment" and function is None)
        ):
            raise TypeError(
                f"{part} of the reader is {function!r}; it must be a function, see foreshock.Reader"
            )
    _READERS[optimizer_class] = reader
    _STEP_OF.pop(optimizer_class, None)


def find_reader(optimizer: Optimizer) -> Reader:
    """Return the reader for an optimizer.

    Args:
        optimizer: A live optimizer, or a wrapper around one that `unwrap` understands.

    Raises:
        TypeError: If its class is not registered, or has no diagonal preconditioner that could be read.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
        >>> find_reader(optimizer) is BUILT_IN["torch.optim.Adam"]
        True
    """
    cls = type(unwrap(optimizer))
    # A subclass that overrides step() may do anything in it, so that its base's reader must not be used.
    reader = next(_readers(cls), None)
    if reader is not None:
        return reader
    reason = REFUSED.get(_public_name(cls))
    if reason is not None:
        raise TypeError(f"{cls.__name__} cannot be monitored: {reason}")
    known = ", ".join(sorted({name.rpartition(".")[2] for name in BUILT_IN} | {c.__name__ for c in _READERS}))
    raise TypeError(
        f"{qualified_name(cls)} is not an optimizer Foreshock can read (it reads {known}, "
        "and subclasses of them that do not override step): register a reader for it with "
        f"foreshock.register_preconditioner(cls, reader){if_step_is_taken(cls)}"
    )


def if_step_is_taken(cls: type[Optimizer]) -> str:
    """Return what is enough where a class takes the step of its base, as the end of a sentence.

    Args:
        cls: A class that overrides ``step``; of one without a base that can be read there is nothing to say.
    """
    base = next((base for base in cls.__mro__[1:] if next(_readers(base), None) is not None), None)
    if base is None:
        return ""
    return (
        f"; if its step() calls that of {base.__name__} and leaves the update as it is, "
        f"foreshock.register_preconditioner({cls.__name__}, {_public_name(base)}) is enough"
    )


def find_raising_reader(optimizer: Optimizer) -> Reader | None:
    """Return the reader that says how the second moment of an optimizer is raised; None if there is none.

    A registered reader that doesn't say so leaves a subclass of a built-in optimizer to the built-in one.

    Args:
        optimizer: A live optimizer, or a wrapper around one.
    """
    readers = _readers(type(unwrap(optimizer)))
    return next((reader for reader in readers if reader.raise_second_moment is not None), None)


def raising_names() -> list[str]:
    """Return the names of the optimizers whose second moment can be raised, sorted."""
    built_in = [name.rpartition(".")[2] for name, one in BUILT_IN.items() if one.raise_second_moment]
    registered = [cls.__name__ for cls, one in _READERS.items() if one.raise_second_moment]
    return sorted({*built_in, *registered})


def stock_name(optimizer: Optimizer) -> str | None:
    """Return the public name of the built-in class whose step an optimizer takes; None if there is none.

    Args:
        optimizer: A live optimizer, or a wrapper around one.

    Example:
        >>> import torch
        >>> stock_name(torch.optim.AdamW([torch.zeros(1, requires_grad=True)]))
        'torch.optim.AdamW'
    """
    cls = _with_step_of(type(unwrap(optimizer)))
    for base in cls.__mro__:
        name = _public_name(base)
        if name in BUILT_IN and _same_step(cls, base):
            return name
    return None


def _readers(cls: type[Optimizer]) -> Iterator[Reader]:
    """Yield the readers of a class, then of its bases with the same step, registered ones before built-in."""
    cls = _with_step_of(cls)
    for base in cls.__mro__:
        for reader in (_READERS.get(base), BUILT_IN.get(_public_name(base))):
            if reader is not None and _same_step(cls, base):
                yield reader


def _with_step_of(cls: type[Optimizer]) -> type[Optimizer]:
    """Return the class whose step a class takes, by its own ``step`` or by what was registered."""
    taken = next((_STEP_OF[base] for base in cls.__mro__ if base in _STEP_OF and _same_step(cls, base)), None)
    return cls if taken is None else _with_step_of(taken)


def _readable_base(cls: type[Optimizer], base: type) -> type[Optimizer]:
    """Return a class whose step another one is said to take.

    Raises:
        TypeError: If it is not a base of it, or can't be read.
    """
    if base is cls or not issubclass(cls, base) or not issubclass(base, Optimizer):
        raise TypeError(
            f"{cls.__name__} can't take the step of {base.__name__}, which is not a base class of it; pass a "
            "base, or a foreshock.Reader"
        )
    if next(_readers(base), None) is None:
        raise TypeError(
            f"the step of {base.__name__}, which {cls.__name__} is said to take, can't be read: pass a base "
            "that can, or a foreshock.Reader"
        )
    return base


def _public_name(cls: type) -> str:
    # The modules inside torch.optim are private, and some classes claim to be defined outside of them.
    if getattr(optim, cls.__name__, None) is cls:
        return f"torch.optim.{cls.__name__}"
    return qualified_name(cls)


def _same_step(cls: type[Optimizer], base: type[Optimizer]) -> bool:
    # torch wraps `step` of a class at its first construction, hence the unwrapping.
    return inspect.unwrap(cls.step) is inspect.unwrap(base.step)
