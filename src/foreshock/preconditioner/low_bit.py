"""Adam with moments in 8 or 4 bits, of bitsandbytes and torchao; neither library is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foreshock.preconditioner.adam import read_adam_step
from foreshock.preconditioner.live import (
    LiveParameter,
    SecondMoment,
    read_adam_second_moment,
    step_number,
)
from foreshock.preconditioner.record import ParameterStep

# Entries per scale in bitsandbytes' blockwise quantisation.
_BLOCK = 256


def read_bitsandbytes_step(live: LiveParameter) -> ParameterStep:
    """Return the step of bitsandbytes' Adam or AdamW, in any number of bits.

    Both have decoupled weight decay. The moments are the stored codes times the scale of their block
    (Dettmers et al. 2022, arXiv 2110.02861). The step uses the new moments before they are quantized again,
    so that it is exact in float32. Tested against the library on CPU only; GPU kernels that decay the weights
    after the step instead of before it differ by O(η²w).

    Args:
        live: The parameter.

    Raises:
        TypeError: If updates are clipped by `max_unorm`.
    """
    if "unorm_vec" in live.state:
        raise TypeError(
            "the optimizer has bitsandbytes' max_unorm set, which clips updates by a norm that Foreshock "
            "cannot read: leave max_unorm at 0"
        )
    moments = (
        {} if not live.state else {"exp_avg": _decoded(live.state, 1), "exp_avg_sq": _decoded(live.state, 2)}
    )
    state = {"step": live.state.get("step", 0)} | moments
    group = dict(live.group) | {"amsgrad": False}
    return read_adam_step(_in_float32(replace(live, state=state, group=group)), decoupled=True)


def read_bitsandbytes_second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> SecondMoment:
    """Return v_{t−1}, β₂ and t.

    Args:
        state: Optimizer state of one parameter.
        group: Its parameter group.
    """
    previous = _decoded(state, 2) if state else None
    return SecondMoment(previous, float(group["betas"][1]), step_number(state))


def read_torchao_step(live: LiveParameter, *, decoupled: bool) -> ParameterStep:
    """Return the step of torchao's Adam or AdamW in 8 or 4 bits or float8, exact in float32.

    Args:
        live: The parameter.
        decoupled: Whether weight decay is decoupled.
    """
    state = {key: _dequantized(value) for key, value in live.state.items()}
    return read_adam_step(_in_float32(replace(live, state=state)), decoupled=decoupled)


def read_torchao_second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> SecondMoment:
    """Return v_{t−1}, β₂ and t.

    Args:
        state: Optimizer state of one parameter.
        group: Its parameter group.
    """
    moment = read_adam_second_moment(state, group)
    return replace(moment, previous=_dequantized(moment.previous))


def _in_float32(live: LiveParameter) -> LiveParameter:
    """Both libraries compute in float32, whatever the parameter's dtype."""
    return replace(live, parameter=live.parameter.detach().float(), gradient=live.gradient.float())


def _decoded(state: Mapping[str, Any], index: int) -> Tensor:
    codes: Tensor = state[f"state{index}"]
    # Moments in 32 bits, as of small tensors, are not coded.
    if codes.dtype != torch.uint8:
        return codes.float()
    # A code is an index into a map of 256 values in [−1, 1], which the block's largest modulus scales.
    scale = state[f"absmax{index}"].repeat_interleave(_BLOCK)[: codes.numel()]
    values: Tensor = state[f"qmap{index}"][codes.flatten().long()] * scale
    return values.view(codes.shape)


def _dequantized(value: Any) -> Any:
    # Plain tensors have a method dequantize() too, for torch's own quantized dtypes: it raises for others.
    return value.dequantize() if isinstance(value, Tensor) and type(value) is not Tensor else value
