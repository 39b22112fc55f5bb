"""A live optimizer: what it wraps, its groups, and what a reader gets to see of one parameter and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.preconditioner.record import ParameterStep
from foreshock.representation import short_repr

# Optimizers that wrap another one, and where: known by name, so that nothing has to be imported.
_INNER: Mapping[str, str] = MappingProxyType(
    {
        "accelerate.optimizer.AcceleratedOptimizer": "optimizer",
        "lightning.pytorch.core.optimizer.LightningOptimizer": "optimizer",
        "pytorch_lightning.core.optimizer.LightningOptimizer": "optimizer",
        "torch.distributed.optim.zero_redundancy_optimizer.ZeroRedundancyOptimizer": "optim",
    }
)


@dataclass(frozen=True)
class LiveParameter:
    """One parameter that is about to be moved, as its optimizer sees it. Nothing of it may be changed.

    Attributes:
        parameter: The parameter.
        gradient: Its ``.grad``, dense and detached, a gradient scaler's scale divided out.
        state: Its optimizer state; empty before the first step.
        group: Its parameter group.
    """

    parameter: Tensor
    gradient: Tensor
    state: Mapping[str, Any]
    group: Mapping[str, Any]

    __repr__ = short_repr

    @property
    def step(self) -> int:
        """Number t ≥ 1 of the step about to be taken."""
        return step_number(self.state)

    @property
    def learning_rate(self) -> float:
        """The group's η, which may be a tensor there."""
        return self.option("lr")

    @property
    def sign(self) -> float:
        """−1 if the optimizer maximizes, else 1."""
        return -1.0 if self.group.get("maximize", False) else 1.0

    def option(self, name: str) -> float:
        """Return a number from the parameter group, where it may be a tensor.

        Args:
            name: Name of the option.

        Raises:
            KeyError: If the group has no such option.
        """
        return float(self.group[name])

    def betas(self) -> tuple[float, float]:
        """Return (β₁, β₂), which may be tensors in the group."""
        beta1, beta2 = self.group["betas"][:2]
        return float(beta1), float(beta2)

    def moment(self, name: str) -> Tensor:
        """Return a tensor of the state, of the parameter's shape; zeros before the first step.

        Args:
            name: Key of the state.

        Raises:
            ValueError: If the state has something else there.
        """
        value = self.saved(name)
        return torch.zeros_like(self.parameter, requires_grad=False) if value is None else value.detach()

    def saved(self, name: str) -> Tensor | None:
        """Return a tensor of the state; None if there is none yet.

        Args:
            name: Key of the state.

        Raises:
            ValueError: If the state has something else there.
        """
        value = self.state.get(name)
        if value is None or isinstance(value, Tensor):
            return value
        raise ValueError(
            f"{name!r} in the optimizer's state is a {type(value).__name__}, and must be a tensor: the state "
            "is damaged, or of another optimizer"
        )

    def used_gradient(self, coupled_decay: float = 0.0) -> Tensor:
        """Return g_t as the optimizer uses it, a tensor that may share memory with ``.grad``.

        Args:
            coupled_decay: wd of L2 regularisation.
        """
        gradient = -self.gradient if self.sign < 0 else self.gradient
        return gradient.add(self.parameter.detach(), alpha=coupled_decay) if coupled_decay else gradient

    def identity(self) -> Tensor:
        """Return ones of the parameter's shape, in the memory of one number: D of a step without one."""
        return torch.ones((), dtype=self.parameter.dtype, device=self.parameter.device).expand(
            self.parameter.shape
        )


@dataclass(frozen=True)
class SecondMoment:
    """The moving average v of g² of one tensor, before the step about to be taken.

    Attributes:
        previous: v_{t−1}, or anything non-negative with the same sum; None before the first step.
        beta2: β₂ of this step.
        step: Number t ≥ 1 of the step, for the bias correction 1 − β₂ᵗ of an average that starts at zero.
    """

    previous: Tensor | None
    beta2: float
    step: int

    __repr__ = short_repr


def step_number(state: Mapping[str, Any]) -> int:
    """Return the number t ≥ 1 of the step about to be taken.

    Args:
        state: Optimizer state of one parameter; empty before the first step.
    """
    return int(state.get("step", 0)) + 1


def updates_made(states: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return how many updates each state has seen; one transfer for each device on which they are counted.

    Fused and capturable optimizers count on the device of the parameter, each parameter for itself.

    Args:
        states: Optimizer states; those without a count have seen none.

    Example:
        >>> updates_made([{"step": torch.tensor(3.0)}, {}, {"step": 5}])
        [3, 0, 5]
    """
    counts = [state.get("step", 0) for state in states]
    made = [0 if isinstance(count, Tensor) else int(count) for count in counts]
    together: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = {}
    for place, count in enumerate(counts):
        if isinstance(count, Tensor):
            # By attribute, as in `foreshock.vectors.local`: of a sharded tensor what this process holds.
            plain = type(count) is Tensor or not hasattr(count, "to_local")
            here = count if plain else count.to_local()  # type: ignore[attr-defined]
            together.setdefault((here.device, here.dtype), {})[place] = here
    for tensors in together.values():
        fetched = torch.stack(list(tensors.values())).flatten().tolist()
        for place, count in zip(tensors, fetched, strict=True):
            made[place] = int(count)
    return made


def options_on_host(group: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a parameter group whose options are plain numbers, where they are tensors in it.

    Args:
        group: A parameter group. A capturable optimizer may have its learning rate on the device.

    Example:
        >>> options_on_host({"lr": torch.tensor(0.5), "betas": (0.9, 0.99)})
        {'lr': 0.5, 'betas': (0.9, 0.99)}
    """
    found: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Tensor):
            found[name] = float(value)
        elif isinstance(value, tuple) and any(isinstance(one, Tensor) for one in value):
            found[name] = tuple(float(one) for one in value)
    return {**group, **found} if found else group


def read_adam_second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> SecondMoment:
    """Return v_{t−1}, β₂ and t of the optimizers that keep their state as Adam does.

    Args:
        state: Optimizer state of one parameter.
        group: Its parameter group.
    """
    return SecondMoment(state.get("exp_avg_sq"), float(group["betas"][1]), step_number(state))


def read_no_second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> None:
    """Return None: there is no decaying average of g², hence no lag of it.

    Args:
        state: Ignored.
        group: Ignored.
    """


Write = tuple[Tensor, Tensor]
"""A tensor of an optimizer's state, and what to write into it."""


@dataclass(frozen=True)
class Reader:
    """How to read one family of optimizers, and how to guard it.

    Attributes:
        step: The parameter as its optimizer sees it → the step about to be taken.
        second_moment: (state, group) → the average of g² before the step, or None if there is none.
        raise_second_moment: (the parameter, k) → what to write into its state *before* the step, so that the
            v with which the step is made is k times what it would have been: D without ε is √k times as
            large. k ≥ 1 is a number, or a tensor of the parameter's shape. It writes nothing itself; an empty
            list says that no write would do it. None: a guard refuses the optimizer.
        elementwise: Whether k may be a tensor, that is, whether v has an entry for each coordinate.
        decoupled_decay: Whether ``weight_decay`` is decoupled from the gradient, where the parameter group
            has no ``decoupled_weight_decay`` that says so.

    Example:
        The reader of plain gradient descent, whose D is one:

        >>> def read_step(live: LiveParameter) -> ParameterStep:
        ...     gradient = live.used_gradient()
        ...     return ParameterStep(
        ...         gradient=gradient,
        ...         numerator=gradient,
        ...         denominator=live.identity(),
        ...         learning_rate=live.learning_rate,
        ...         momentum_factor=1.0,
        ...     )
        >>> Reader(step=read_step)
        Reader(step=<read_step>)
    """

    step: Callable[[LiveParameter], ParameterStep]
    second_moment: Callable[[Mapping[str, Any], Mapping[str, Any]], SecondMoment | None] = (
        read_no_second_moment
    )
    raise_second_moment: Callable[[LiveParameter, Tensor | float], Sequence[Write]] | None = None
    elementwise: bool = True
    decoupled_decay: bool = False

    __repr__ = short_repr


def qualified_name(cls: type) -> str:
    """Return the module and name of a class.

    Args:
        cls: Any class.
    """
    return f"{cls.__module__}.{cls.__qualname__}"


def unwrap(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that takes the steps and has the state.

    Args:
        optimizer: An optimizer, or a wrapper around one: accelerate's, Lightning's, or torch's
            ZeroRedundancyOptimizer, whose inner optimizer has this process's share of the parameters.
    """
    return _chain(optimizer)[-1]


def as_optimizers(optimizers: Optimizer | Sequence[Optimizer]) -> tuple[Optimizer, ...]:
    """Return one optimizer or several as a tuple, without unwrapping them.

    Args:
        optimizers: One optimizer, or several for different parameters of a model.

    Raises:
        ValueError: If there is none.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> as_optimizers(optimizer) == as_optimizers([optimizer])
        True
    """
    several = tuple(optimizers) if isinstance(optimizers, Sequence) else (optimizers,)
    if not several:
        raise ValueError("no optimizer was given: pass one, or a sequence of at least one")
    return several


def live_groups(optimizer: Optimizer) -> Iterator[Mapping[str, Any]]:
    """Yield the parameter groups with the options that the next step will use.

    A scheduler changes the groups of the optimizer that it was given, which may be the wrapper.
    ZeroRedundancyOptimizer copies its options to the inner optimizer only inside ``step()``. The options of
    the wrapper are therefore the valid ones.

    Args:
        optimizer: An optimizer or a wrapper around one.
    """
    outer, inner = optimizer, unwrap(optimizer)
    for theirs, ours in zip(outer.param_groups, inner.param_groups, strict=True):
        # The parameters are those of the inner optimizer, which in ZeroRedundancyOptimizer has a share only.
        yield ours if theirs is ours else {**ours, **theirs, "params": ours["params"]}


def moving_parameters(optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """Return the parameters that require a gradient, in the order in which their steps are read.

    Args:
        optimizers: Live optimizers, or wrappers around them.
    """
    groups = (group for one in optimizers for group in live_groups(one))
    return [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]


def _chain(optimizer: Optimizer) -> list[Optimizer]:
    chain = [optimizer]
    while (name := _inner_name(type(chain[-1]))) is not None:  # type: ignore[arg-type]
        chain.append(getattr(chain[-1], name))
    return chain


@lru_cache(maxsize=64)
def _inner_name(cls: type) -> str | None:
    return next((_INNER[name] for base in cls.__mro__ if (name := qualified_name(base)) in _INNER), None)
