"""A saved optimizer state → the optimizer, if it is what the optimizer would have saved.

torch takes nearly anything: keys of no parameter, states that are empty, moments of another shape. Such a
state gives a number that looks right. What a state must have is found out by one step of the same optimizer
on zeros of a parameter's shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_SHOWN = 3
# What torch's optimizers keep of squares.
_SQUARES = frozenset(
    (
        "exp_avg_sq",
        "max_exp_avg_sq",
        "square_avg",
        "sum",
        "acc_delta",
        "row_var",
        "col_var",
        "variance",
        "exp_inf",
    )
)


def load_optimizer_state(optimizer: Optimizer, saved: Any) -> None:
    """Load a saved state into an optimizer, after comparing it with what the optimizer keeps.

    Args:
        optimizer: What is loaded into, as its factory made it.
        saved: What ``optimizer.state_dict()`` once returned, from a file that may hold anything.

    Raises:
        ValueError: If it is no state of this optimizer, with what differs.
    """
    _require_form(saved)
    _require_values(saved["state"], complex_allowed=any(p.is_complex() for p in _parameters(optimizer)))
    made = [
        {name: value for name, value in group.items() if name != "params"} for group in _groups(optimizer)
    ]
    try:
        optimizer.load_state_dict(saved)
    except Exception as error:  # torch checks little: anything may be in the file
        raise ValueError(f"{type(error).__name__}: {error}") from error
    for before, after in zip(made, _groups(optimizer), strict=True):
        _require_options(before, after)
    _require_states(optimizer)


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return optimizer.param_groups


def _require_form(saved: Any) -> None:
    if not (
        isinstance(saved, Mapping)
        and isinstance(saved.get("state"), Mapping)
        and isinstance(saved.get("param_groups"), list)
    ):
        raise ValueError(
            f"its optimizer state, of type {type(saved).__name__}, has no mapping 'state' and no list "
            "'param_groups'; save what optimizer.state_dict() returns"
        )
    known: set[Any] = set()
    for group in saved["param_groups"]:
        if not (isinstance(group, Mapping) and isinstance(group.get("params"), list)):
            raise ValueError(f"a parameter group in it is {type(group).__name__} without a list 'params'")
        known.update(key for key in group["params"] if isinstance(key, (int, str)))
    odd = [key for key in saved["state"] if key not in known]
    if odd:
        raise ValueError(
            f"it has states of {_listed(odd)}, which {'is' if len(odd) == 1 else 'are'} in none of its "
            "parameter groups; save what optimizer.state_dict() returns, unchanged"
        )
    for key, state in saved["state"].items():
        if not isinstance(state, Mapping):
            raise ValueError(f"the state of parameter {key!r} is a {type(state).__name__}, not a mapping")


def _require_values(states: Mapping[Any, Mapping[str, Any]], *, complex_allowed: bool) -> None:
    # Before torch casts them: it drops imaginary parts, and makes of a text another one.
    for key, state in states.items():
        for name, value in state.items():
            if isinstance(value, str):
                raise ValueError(f"{name!r} of parameter {key!r} is the text {_short(value)}")
            if isinstance(value, Tensor) and value.is_complex() and not complex_allowed:
                raise ValueError(f"{name!r} of parameter {key!r} is complex; the parameters are real")


def _require_options(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for name, value in before.items():
        if name not in after:
            raise ValueError(f"a parameter group in it lacks {name!r}, which the optimizer has as {value!r}")
        loaded = after[name]
        if _is_number(value):
            fits = _is_number(loaded) and math.isfinite(loaded)
            # No optimizer takes a negative one of these.
            fits = fits and (name not in ("lr", "eps", "weight_decay", "alpha") or float(loaded) >= 0)
        elif isinstance(value, (tuple, list)) and all(map(_is_number, value)):
            fits = isinstance(loaded, (tuple, list)) and len(loaded) == len(value)
            fits = fits and all(_is_number(one) and math.isfinite(one) for one in loaded)
            fits = fits and (name != "betas" or all(0 <= float(one) <= 1 for one in loaded))
        else:
            fits = value is None or isinstance(loaded, (bool, type(None), type(value)))
        if not fits:
            raise ValueError(
                f"its {name!r} is {_short(loaded)}; the optimizer of the factory has {_short(value)} there"
            )


def _require_states(optimizer: Optimizer) -> None:
    expected = {id(parameter): state for parameter, state in _expected(optimizer)}
    needing = [
        (place, parameter)
        for place, parameter in enumerate(_parameters(optimizer))
        if parameter.requires_grad and expected.get(id(parameter))
    ]
    without = [place for place, parameter in needing if not optimizer.state.get(parameter)]
    if without and len(without) == len(needing):
        raise ValueError(
            "its optimizer state is empty, as before the first step: nothing measured with it would be of "
            "the run; save the checkpoint after a step, or let the factory return no optimizer"
        )
    if without:
        raise ValueError(
            f"it has no optimizer state of parameter {_listed(without)}, counted as in the optimizer; if "
            "they are never trained, let the factory set requires_grad=False for them"
        )
    for place, parameter in needing:
        _compare(place, expected[id(parameter)], optimizer.state[parameter])


def _compare(place: int, expected: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    whose = f"of parameter {place}, counted as in the optimizer,"
    for name, value in expected.items():
        if name not in state:
            raise ValueError(f"the state {whose} has no {name!r}; it has {_listed(list(state))}")
        loaded = state[name]
        if isinstance(value, Tensor) and value.dim():
            if not isinstance(loaded, Tensor) or loaded.shape != value.shape:
                raise ValueError(f"{name!r} {whose} is {_short(loaded)}; it must be {_short(value)}")
            if loaded.layout != value.layout:
                raise ValueError(f"{name!r} {whose} is {loaded.layout}; it must be {value.layout}")
            _require_moments(f"{name!r} {whose}", loaded, squares=name in _SQUARES)
        elif _is_number(value) and not (_is_number(loaded) and math.isfinite(loaded)):
            raise ValueError(f"{name!r} {whose} is {_short(loaded)}; it must be a finite number")
    step = state.get("step", 1)
    if _is_number(step) and not step >= 1:
        raise ValueError(f"'step' {whose} is {_short(step)}; after a step it is at least 1")


def _require_moments(what: str, loaded: Tensor, *, squares: bool) -> None:
    """Refuse what no average of finite gradients can be; some of it would pass unseen into a ratio."""
    if type(loaded) not in (Tensor, nn.Parameter):  # quantised: a class of its own, with few operations
        return
    values = loaded if loaded.element_size() > 1 else loaded.float()  # float8 has few, too
    if not torch.isfinite(values).all():
        raise ValueError(
            f"{what} has values that are NaN or infinite: the run had diverged, or the file is damaged; "
            "measure a checkpoint from before"
        )
    if squares and (values < 0).any():
        raise ValueError(f"{what} has values below zero; it is made of squares, so the file is damaged")


def _expected(optimizer: Optimizer) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
    """Yield each parameter with the state that it has after one step, where that can be found out."""
    for group in _groups(optimizer):
        for parameter in group["params"]:
            zeros = torch.zeros_like(parameter, requires_grad=True)
            zeros.grad = torch.zeros_like(parameter)
            try:
                other: Any = type(optimizer)([{**group, "params": [zeros]}])  # type: ignore[call-arg]
                other.step()
            except Exception:  # noqa: BLE001, S112 - an optimizer that is made in another way is not compared
                continue
            yield parameter, other.state[zeros]


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in _groups(optimizer):
        yield from group["params"]


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    if isinstance(value, Tensor) and value.dim():
        return f"a tensor of shape {tuple(value.shape)}"
    words = repr(value.item() if isinstance(value, Tensor) else value)
    return words if len(words) < 100 else f"a {type(value).__name__}"


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(map(_short, values[:_SHOWN]))
    return (
        shown + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "") if shown else "nothing"
    )
