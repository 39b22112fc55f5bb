"""The state of random number generators: torch's, numpy's and Python's, and those of a loss function."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

_NUMPY_BYTES = 4 * (624 + 1)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""Types of generators that can be set back."""


@dataclass(frozen=True)
class RandomState:
    """The state of all random number generators that a model may use.

    Attributes:
        torch_cpu: torch's generator on the CPU.
        torch_cuda: torch's generators on CUDA devices, by index.
        numpy: numpy's global generator.
        python: Python's global generator.
        others: Further generators, each with its state.
        numpy_bits: What numpy's state is in memory, to see whether anything was drawn; None to not look.
    """

    torch_cpu: Tensor
    torch_cuda: dict[int, Tensor]
    numpy: Any
    python: Any
    others: Sequence[tuple[Any, Any]] = field(default=())
    numpy_bits: bytes | None = field(default=None, compare=False)

    @classmethod
    def capture(cls, tensors: Sequence[Tensor], generators: Sequence[Any] = ()) -> Self:
        """Return the present state, on the CPU and on the devices of `tensors`.

        Args:
            tensors: Tensors on the devices that the model uses.
            generators: Further generators, of the types in `GENERATORS`.
        """
        # Only the devices in use: the model cannot draw from the others.
        devices = {tensor.device for tensor in tensors}
        cuda = [device.index for device in devices if device.type == "cuda"]
        numpy_state = np.random.get_state()
        return cls(
            torch.get_rng_state(),
            {index: torch.cuda.get_rng_state(index) for index in cuda},
            numpy_state,
            random.getstate(),
            [(generator, generator_state(generator)) for generator in generators],
            _checked_bits(numpy_state),
        )

    def now(self, *, others: bool = True) -> Self:
        """Return the present state of the same generators.

        numpy's is read only where anything was drawn since: that takes as long as all the rest.

        Args:
            others: Whether to read those beyond torch's, numpy's and Python's.
        """
        drawn = self.numpy_bits is None or _numpy_bits() != self.numpy_bits
        numpy_state = np.random.get_state() if drawn else self.numpy
        return type(self)(
            torch.get_rng_state(),
            {index: torch.cuda.get_rng_state(index) for index in self.torch_cuda},
            numpy_state,
            random.getstate(),
            [(one, generator_state(one)) for one, _ in self.others] if others else (),
            _checked_bits(numpy_state) if drawn else self.numpy_bits,
        )

    def restore(self) -> None:
        """Set every generator back to this state."""
        torch.set_rng_state(self.torch_cpu)
        for index, state in self.torch_cuda.items():
            torch.cuda.set_rng_state(state, index)
        if self.numpy_bits is None or _numpy_bits() != self.numpy_bits:
            np.random.set_state(self.numpy)
        random.setstate(self.python)
        for generator, state in self.others:
            set_generator_state(generator, state)


def _numpy_bits() -> bytes:
    """Return key and position of numpy's global generator as they lie in memory.

    To set the state takes fifty times as long as to see that it need not be set.
    """
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    return ctypes.string_at(generator.ctypes.state_address, _NUMPY_BYTES)


def _checked_bits(state: Any) -> bytes | None:
    """Return `_numpy_bits`, if they surely are what a state consists of, and all of it."""
    name, key, position, cached, _ = state
    if name != "MT19937" or cached:  # half of a pair of normal numbers lies elsewhere
        return None
    bits = _numpy_bits()
    return bits if bits == key.tobytes() + int(position).to_bytes(4, sys.byteorder) else None


def generator_state(generator: Any) -> Any:
    """Return the state of a generator, for `set_generator_state`.

    Args:
        generator: Of a type in `GENERATORS`.
    """
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def set_generator_state(generator: Any, state: Any) -> None:
    """Set a generator back.

    Args:
        generator: Of a type in `GENERATORS`.
        state: Of `generator_state`.
    """
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
