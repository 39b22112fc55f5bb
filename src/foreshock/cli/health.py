"""Is a checkpoint fit to go on from: its weights, and what its optimizer remembers.

Weights alone look healthy in most checkpoints that make a loss jump at a resume: what is wrong is v, which is
lost, zero, of another step, or of other parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from foreshock.cli.checkpoints import optimizer_state_of, read_checkpoint, weights_of
from foreshock.words import count, number

Severity = Literal["fault", "warning", "fine"]

_SECOND = ("exp_avg_sq", "square_avg", "exp_inf", "max_exp_avg_sq", "exp_avg_sq_row", "v")
_FIRST = "exp_avg"
_STEPS = ("global_step", "step", "iteration", "iter", "iter_num", "num_steps", "steps")
_SHOWN = 3
_BEYOND = 1.05  # of the bound on |m|/√v, for rounding in low precision
_SHRUNK = 0.01  # of Σv̂ over an older one's
_FEW = 100  # updates: with fewer, v is not settled at β₂ = .999
_MOST_UPDATES = 2**53
_BEHIND = 0.5  # of the steps that the checkpoint counts itself


@dataclass(frozen=True)
class Remark:
    """What was found about a checkpoint.

    Attributes:
        severity: ``"fault"``: training that goes on from it will suffer; ``"warning"``: it may;
            ``"fine"``: what was looked at is in order.
        words: What, in one sentence without a full stop.
    """

    severity: Severity
    words: str


@dataclass(frozen=True)
class Health:
    """A checkpoint, examined.

    Attributes:
        path: The file.
        remarks: What was found, faults first.
        updates: Number of updates that its optimizer has made, as it counts them; None if unknown.
        second_moment: Σv̂; NaN without one.
    """

    path: Path
    remarks: tuple[Remark, ...]
    updates: float | None = None
    second_moment: float = math.nan

    @property
    def healthy(self) -> bool:
        """Whether there is no fault."""
        return all(remark.severity != "fault" for remark in self.remarks)


def examine(path: Path, *, against: Path | None = None) -> Health:
    """Return what is wrong with a checkpoint, from its content alone.

    Args:
        path: A file made by ``torch.save``, of state dicts.
        against: An older checkpoint of the same run.

    Raises:
        OSError: If a file can't be read.
        ValueError: If one is no checkpoint.
    """
    content = read_checkpoint(path)
    weights, optimizer = _parts_of(content)
    remarks = list(_of_weights(weights))
    updates, second = None, math.nan
    if optimizer is None:
        keys = ", ".join(map(str, list(content)[:8]))
        remarks.append(
            Remark("fault", f"it has no optimizer state (its keys: {keys}): v and the momentum start anew")
        )
    else:
        states, groups = _states_of(optimizer), _groups_of(optimizer)
        updates, second = _updates(states), _second_moment(states, groups)
        remarks += _of_states(states, groups, weights)
        remarks += _of_counts(updates, content)
    if against is not None:
        older = read_checkpoint(against)
        remarks += _of_change(older, weights, optimizer, updates, second)
    order = {"fault": 0, "warning": 1, "fine": 2}
    remarks.sort(key=lambda remark: order[remark.severity])
    return Health(path, tuple(remarks), updates, second)


def _parts_of(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return weights and optimizer state; what a checkpoint has by these names may be anything."""
    weights, optimizer = weights_of(content), optimizer_state_of(content)
    if not isinstance(weights, Mapping):
        weights = {}
    return weights, optimizer if isinstance(optimizer, Mapping) else None


def _of_weights(weights: Mapping[str, Any]) -> Iterator[Remark]:
    tensors = {name: one for name, one in weights.items() if isinstance(one, Tensor)}
    lost = [name for name, one in tensors.items() if not _finite(one)]
    if lost:
        yield Remark(
            "fault", f"{_listed(lost)} {'has' if len(lost) == 1 else 'have'} NaN or infinite entries"
        )
    elif tensors:
        yield Remark("fine", f"all {count(len(tensors), 'tensor')} of the model are finite")
    else:
        yield Remark("warning", "it has no weights")


def _of_states(
    states: Mapping[Any, Mapping[str, Any]], groups: list[Mapping[str, Any]], weights: Mapping[str, Any]
) -> Iterator[Remark]:
    listed = [group.get("params") for group in groups]
    keys = [key for one in listed if isinstance(one, list) for key in one if isinstance(key, (int, str))]
    if not states:
        yield Remark("fault", "the optimizer's state is empty, as before the first step: v is lost")
        return
    without = [key for key in keys if key not in states or not states[key]]
    if without:
        yield Remark(
            "warning",
            f"{len(without)} of {len(keys)} parameters have no optimizer state ({_listed(without)})",
        )
    found = {key: _moment(state) for key, state in states.items()}
    moments = {key: one for key, one in found.items() if one is not None}
    if not moments:
        yield Remark("warning", "the optimizer keeps no second moment: it can't be cold")
        return
    checks = (
        ("fault", "not finite", [key for key, one in moments.items() if not _finite(one)]),
        ("fault", "negative somewhere", [key for key, one in moments.items() if bool((one < 0).any())]),
        ("fault", "zero throughout", [key for key, one in moments.items() if not bool(one.any())]),
    )
    sound = True
    firsts = {key: state.get(_FIRST) for key, state in states.items()}
    lost = [key for key, one in firsts.items() if isinstance(one, Tensor) and not _finite(one)]
    if lost:
        sound = False
        yield Remark("fault", f"the momentum of {_listed(lost)} of {len(states)} is not finite")
    for severity, what, members in checks:
        # Zero where the momentum is zero too: a parameter that never had a gradient.
        members = [key for key in members if what != "zero throughout" or _moves(states[key])]
        if members:
            sound = False
            yield Remark(severity, f"v of {_listed(members)} of {len(moments)} is {what}")  # type: ignore[arg-type]
    yield from _of_shapes(moments, states, weights)
    beyond = [key for key in moments if _too_small(states[key], moments[key], groups)]
    if beyond and sound:
        yield Remark(
            "fault",
            f"v of parameter {_listed(beyond)} is smaller than its momentum allows: it was lost, or is not "
            "of this run",
        )
    elif sound:
        yield Remark(
            "fine", f"v of {count(len(moments), 'parameter')} is finite, positive and fits the momentum"
        )


def _of_shapes(
    moments: Mapping[Any, Tensor], states: Mapping[Any, Mapping[str, Any]], weights: Mapping[str, Any]
) -> Iterator[Remark]:
    known = {tuple(one.shape) for one in weights.values() if isinstance(one, Tensor)}
    odd = [
        key
        for key, one in moments.items()
        if isinstance(states[key].get(_FIRST), Tensor) and states[key][_FIRST].shape != one.shape
    ]
    odd += [key for key, one in moments.items() if known and tuple(one.shape) not in known and key not in odd]
    if odd:
        yield Remark("fault", f"v of parameter {_listed(odd)} has the shape of no tensor of the model")


def _of_counts(updates: float | None, content: Mapping[str, Any]) -> Iterator[Remark]:
    if updates is None:
        return
    if not 0 <= updates <= _MOST_UPDATES:
        yield Remark("fault", f"its optimizer counts {updates:g} updates, which can't be")
        return
    own = next((content[name] for name in _STEPS if isinstance(content.get(name), int)), None)
    if own is not None and updates < _BEHIND * own:
        yield Remark(
            "fault",
            f"its optimizer has made {updates:,} updates, the checkpoint counts {own:,} steps: its state was "
            "lost at an earlier resume, or there are several micro-batches a step",
        )
    elif updates < _FEW:
        yield Remark("warning", f"its optimizer has made {updates:,} updates: v is not settled yet")
    else:
        yield Remark("fine", f"its optimizer has made {updates:,} updates")


def _of_change(
    older: Mapping[str, Any],
    weights: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None,
    updates: float | None,
    second: float,
) -> Iterator[Remark]:
    before, saved = _parts_of(older)
    shared = [
        n for n, one in weights.items() if isinstance(one, Tensor) and isinstance(before.get(n), Tensor)
    ]
    other = [name for name in shared if weights[name].shape != before[name].shape]
    lacking = sorted(set(before) ^ set(weights))
    if other or lacking:
        yield Remark(
            "fault", f"{_listed([*other, *lacking])} of the two checkpoints differ in shape, or lack in one"
        )
    elif shared and all(torch.equal(weights[name], before[name]) for name in shared):
        yield Remark("warning", "its weights are those of the older checkpoint, bit by bit")
    if optimizer is None or saved is None:
        return
    states, groups = _states_of(saved), _groups_of(saved)
    then, was = _updates(states), _second_moment(states, groups)
    if updates is not None and then is not None and updates <= then:
        yield Remark(
            "fault",
            f"its optimizer has made {updates:,} updates, the older one's {then:,}: it began anew in between",
        )
    elif updates is not None and then is not None:
        yield Remark("fine", f"its optimizer has made {updates - then:,} updates since the older one")
    if was > 0 and second < _SHRUNK * was:
        yield Remark(
            "warning", f"Σv̂ is {number(second)}, {number(was / second)} times smaller than in the older one"
        )
    for name in ("lr", "betas", "eps", "weight_decay"):
        pair = [[group.get(name) for group in one] for one in (groups, _groups_of(optimizer))]
        if pair[0] != pair[1]:
            yield Remark("warning", f"{name} was {_listed(pair[0])}, and is {_listed(pair[1])}")


def _states_of(optimizer: Mapping[str, Any]) -> dict[Any, Mapping[str, Any]]:
    states = optimizer.get("state")
    items = states.items() if isinstance(states, Mapping) else ()
    return {key: one for key, one in items if isinstance(one, Mapping)}


def _groups_of(optimizer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = optimizer.get("param_groups")
    return [one for one in groups if isinstance(one, Mapping)] if isinstance(groups, list) else []


def _moment(state: Mapping[str, Any]) -> Tensor | None:
    named = (state.get(name) for name in _SECOND)
    found = next((one for one in named if isinstance(one, Tensor) and one.is_floating_point()), None)
    if found is None:
        return None
    dense = found.to_dense() if found.layout != torch.strided else found
    return dense if dense.dtype.itemsize > 1 else dense.float()


def _moves(state: Mapping[str, Any]) -> bool:
    first = state.get(_FIRST)
    return not isinstance(first, Tensor) or bool(first.any())


def _too_small(state: Mapping[str, Any], moment: Tensor, groups: list[Mapping[str, Any]]) -> bool:
    r"""Whether |m|/√v is above what any sequence of gradients gives.

    By Cauchy–Schwarz |m_t| ≤ (1−β₁)/√((1−β₂)(1−β₁²/β₂)) √v_t for m and v of the same gradients, both started
    at zero, if β₁² < β₂.
    """
    first, betas = state.get(_FIRST), _betas(groups)
    if (
        not isinstance(first, Tensor)
        or betas is None
        or first.shape != moment.shape
        or "exp_avg_sq" not in state
    ):
        return False
    beta1, beta2 = betas
    if not (0 < beta2 < 1 and beta1**2 < beta2):
        return False
    bound = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    return bool((first.float().abs() > _BEYOND * bound * moment.float().sqrt() + 1e-12).any())


def _updates(states: Mapping[Any, Mapping[str, Any]]) -> float | None:
    steps = [state["step"] for state in states.values() if "step" in state]
    single = [one for one in steps if not isinstance(one, Tensor) or one.numel() == 1]
    values = [float(one) for one in single if isinstance(one, (int, float, Tensor))]
    if not values:
        return None
    odd = [one for one in values if not 0 <= one <= _MOST_UPDATES]
    return odd[0] if odd else int(max(values))


def _second_moment(states: Mapping[Any, Mapping[str, Any]], groups: list[Mapping[str, Any]]) -> float:
    moments = [one for one in map(_moment, states.values()) if one is not None]
    updates, betas = _updates(states), _betas(groups)
    counted = betas is not None and updates is not None and 0 < updates <= _MOST_UPDATES
    correction = 1 - betas[1] ** updates if betas is not None and updates is not None and counted else 1.0
    return math.fsum(float(one.double().sum()) for one in moments) / correction if moments else math.nan


def _betas(groups: list[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Return β₁ and β₂ of the first group that has them, each in [0, 1); None without."""
    found = next((group["betas"] for group in groups if "betas" in group), None)
    if not isinstance(found, (tuple, list)) or len(found) < 2:
        return None
    pair = [one.item() if isinstance(one, Tensor) and one.numel() == 1 else one for one in found[:2]]
    if not all(isinstance(one, (int, float)) and 0 <= one < 1 for one in pair):
        return None
    return float(pair[0]), float(pair[1])


def _finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    values = tensor.to_dense() if tensor.layout != torch.strided else tensor
    # Of eight bits torch has no isfinite.
    return bool(torch.isfinite(values if values.dtype.itemsize > 1 else values.float()).all())


def _listed(values: Iterable[Any]) -> str:
    known = [str(one) for one in values]
    return ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
