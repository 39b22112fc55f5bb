"""What would have been different: one change of a training, from its words to its effect.

Options are changed for the length of a step, so that a scheduler, which computes the next rate from the last,
is not disturbed. A moment that was gathered with another β is rescaled, or its bias correction, which follows
the new one, would make the next steps many times too large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch.optim import Optimizer

FACTORS = ("lr", "eps", "weight_decay")
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
_OPTIONS = ("lr", "beta1", "beta2", "betas", "eps", "weight_decay", "clip")
_NAMES = (*_OPTIONS, "guard", "skip", "swap", "v", "precision")
_MOMENTS = (("exp_avg", 0), ("exp_avg_sq", 1), ("max_exp_avg_sq", 1))


@dataclass(frozen=True)
class Change:
    """One change of a training; without any field set, none.

    Attributes:
        values: Options of every parameter group, by name: ``lr``, ``eps``, ``weight_decay``, ``beta1``,
            ``beta2``.
        factors: Of ``lr``, ``eps`` and ``weight_decay``, what they are multiplied by instead.
        clip: What the norm of all gradients is clipped to, > 0; None to leave that to the loop.
        guard: Name of the guard's policy, such as ``"auto"``; None for no guard.
        skip: Steps whose batch is left out: no update is made of it.
        swap: Steps that see the batch of the step before once more, instead of their own.
        held: Whether v is held at what it was: each step takes it from where it began.
        precision: ``"float64"`` or ``"float32"``, in which model, optimizer and batches are; None for theirs.

    Raises:
        ValueError: If a field is impossible.
    """

    values: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    factors: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    clip: float | None = None
    guard: str | None = None
    skip: tuple[int, ...] = ()
    swap: tuple[int, ...] = ()
    held: bool = False
    precision: str | None = None

    def __post_init__(self) -> None:
        """Refuse impossible changes."""
        for name, value in self.values.items():
            top = 1.0 if name.startswith("beta") else math.inf
            if not 0 <= value < top:
                allowed = "from 0 to below 1" if top == 1 else "finite, and 0 or more"
                raise ValueError(f"{name}={value:g} can't be set; it must be {allowed}")
        for name, value in self.factors.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name}=x{value:g} can't be set; the factor must be positive and finite")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip={self.clip:g} can't be set; the norm must be positive and finite")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision} can't be set; it must be {' or '.join(PRECISIONS)}")

    def __str__(self) -> str:
        """Return the change in the words that `parse_change` takes; ``unchanged`` for none."""
        words = [f"{name}={value:g}" for name, value in self.values.items()]
        words += [f"{name}=x{value:g}" for name, value in self.factors.items()]
        words += [] if self.clip is None else [f"clip={self.clip:g}"]
        words += [] if self.guard is None else [f"guard={'on' if self.guard == 'auto' else self.guard}"]
        words += [f"skip={'+'.join(map(str, self.skip))}"] if self.skip else []
        words += [f"swap={'+'.join(map(str, self.swap))}"] if self.swap else []
        words += ["v=held"] if self.held else []
        words += [] if self.precision is None else [f"precision={self.precision}"]
        return " ".join(words) or "unchanged"

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that are changed."""
        return tuple({**self.values, **self.factors})

    def prepare(self, optimizer: Optimizer) -> None:
        """Rescale the moments of an optimizer to the new β, once, before the first changed step.

        Args:
            optimizer: The optimizer, with the state of the step from which on things are different.

        Raises:
            ValueError: If it lacks an option that is changed.
        """
        for group in optimizer.param_groups:
            for name in self.options:
                if not _has(group, name):
                    there = ", ".join(key for key in group if key != "params")
                    raise ValueError(
                        f"{name} can't be set: {type(optimizer).__name__} has no such option, only {there}"
                    )
                present = group["betas" if name.startswith("beta") and "betas" in group else _key(name)]
                if not isinstance(present, int | float | torch.Tensor) and not name.startswith("beta"):
                    raise ValueError(
                        f"{name} can't be set: that of {type(optimizer).__name__} is {present!r}, no number"
                    )
            if "betas" in group:
                for parameter in group["params"]:
                    self._rescale(optimizer.state.get(parameter, {}), group["betas"])

    def _rescale(self, state: Mapping[str, Any], betas: tuple[float, float]) -> None:
        if "step" not in state:
            return
        updates = float(state["step"])
        for name, place in _MOMENTS:
            new = self.values.get(f"beta{place + 1}")
            if new is None or name not in state or not updates:
                continue
            # m / (1 − βᵗ) is the mean of the gradients so far; it stays what it is.
            state[name].mul_((1 - new**updates) / (1 - float(betas[place]) ** updates))

    def begin_step(self, optimizer: Optimizer) -> Callable[[], None]:
        """Clip the gradients and change the options of an optimizer; return what puts the options back.

        Args:
            optimizer: The optimizer, just before it steps.
        """
        if self.clip is not None:
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        return self.set_options(optimizer)

    def set_options(self, optimizer: Optimizer) -> Callable[[], None]:
        """Change the options of an optimizer; return what puts them back.

        Args:
            optimizer: The optimizer.
        """
        before = []
        for group in optimizer.param_groups:
            for name in self.options:
                key = "betas" if name.startswith("beta") and "betas" in group else _key(name)
                before.append((group, key, group[key]))
                group[key] = self._changed(group[key], name, key)

        def put_back() -> None:
            for group, key, value in reversed(before):
                group[key] = value

        return put_back

    def _changed(self, value: Any, name: str, key: str) -> Any:
        if key == "betas":
            place = 0 if name == "beta1" else 1
            return tuple(self.values[name] if i == place else one for i, one in enumerate(value))
        new = self.values[name] if name in self.values else value * self.factors[name]
        return torch.as_tensor(new, dtype=value.dtype, device=value.device) if torch.is_tensor(value) else new


def parse_change(text: str) -> Change:
    """Return the change that words stand for.

    Args:
        text: Settings, separated by blanks or semicolons: ``lr=1e-4``, ``lr=x0.5`` (half of what it is),
            ``beta2=0.99``, ``betas=0.9,0.99``, ``eps=x100``, ``weight_decay=0``, ``clip=1.0``, ``guard=on``
            or the name of a policy, ``skip=120`` or ``skip=120+121``, ``swap=120``, ``v=held``,
            ``precision=float64``.

    Raises:
        ValueError: If there are other words, or impossible values.

    Example:
        >>> change = parse_change("lr=x0.5 betas=0.9,0.99")
        >>> change.values, change.factors
        ({'beta1': 0.9, 'beta2': 0.99}, {'lr': 0.5})
        >>> print(parse_change("guard=on skip=120+121"))
        guard=on skip=120+121
    """
    values: dict[str, float] = {}
    factors: dict[str, float] = {}
    clip: float | None = None
    guard: str | None = None
    steps: dict[str, tuple[int, ...]] = {"skip": (), "swap": ()}
    held, precision = False, None
    words = text.replace(";", " ").split()
    if not words:
        raise ValueError('the change is empty; it must be such as "lr=x0.5", "beta2=0.99", "guard=on"')
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value or name not in _NAMES:
            raise ValueError(
                f"{word!r} is no change; it must be NAME=VALUE with one of {', '.join(_NAMES)} as NAME"
            )
        if name == "guard":
            guard = {"on": "auto", "off": None}.get(value, value)
        elif name in steps:
            steps[name] = tuple(_step(one, word) for one in value.split("+"))
        elif name == "v":
            held = _held(value, word)
        elif name == "precision":
            precision = value
        elif name == "clip":
            clip = _number(value, word)
        elif name == "betas":
            one, comma, other = value.partition(",")
            if not comma:
                raise ValueError(f"{word!r} must have two numbers, such as betas=0.9,0.99")
            values |= {"beta1": _number(one, word), "beta2": _number(other, word)}
        elif value[0] in "x×*" and name in FACTORS:
            factors[name] = _number(value[1:], word)
        else:
            values[name] = _number(value, word)
    return Change(values, factors, clip, guard, **steps, held=held, precision=precision)


def _has(group: Mapping[str, Any], name: str) -> bool:
    return ("betas" in group) if name.startswith("beta") and "betas" in group else _key(name) in group


def _key(name: str) -> str:
    """Return what an optimizer without `betas` calls β₁ and β₂, as RMSprop and SGD do."""
    return {"beta1": "momentum", "beta2": "alpha"}.get(name, name)


def _number(text: str, word: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{word!r} must have a number, such as 0.5 or 1e-4, after the sign")
    return value


def _held(value: str, word: str) -> bool:
    if value != "held":
        raise ValueError(f"{word!r} is no change; v can only be held: v=held")
    return True


def _step(text: str, word: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{word!r} must have steps, such as {word.partition('=')[0]}=120+121")
    return int(text)
