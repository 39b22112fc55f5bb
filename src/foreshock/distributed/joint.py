r"""One probe in which all processes take part: sums of what each computes on its part of the batch.

Every message of a probe has the same length, whatever it says. So a process that fails, that found its batch
too short, or that thinks the probe is over never waits in another collective than the others do: it says so
in the message that they wait for, and all leave the probe together. With the share p_r of the examples that
process r has,

.. math:: \bar x = \sum_r p_r x_r .
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from foreshock.distributed.channel import Channel, ChannelError
from foreshock.distributed.pieces import is_spread, why_not_spread
from foreshock.failures import ProbeRefusedError
from foreshock.isolation import alone

CHOICE, POINT, PRODUCT, GRADIENTS, CURVATURES, END, SUMS, GATHER, COLLECTIVE, COUNTS = range(1, 11)
"""What a message is about. Where processes send different ones, their probes have come apart."""

_SCALARS = 8
# Behind the vector and the scalars: failed, refused, left out, what the message is about, and its square.
_FAILED, _REFUSED, _LEFT_OUT, _TOPIC, _SQUARE = range(5)
_FLAGS = 5


class OtherRankError(RuntimeError):
    """A probe was abandoned because another process failed in it."""


class LeftOutError(Exception):
    """A probe is left out, in all processes, because the batch of one is too short for it; no failure."""


class Joint(Protocol):
    """What a measurement is made over: this process alone, or several."""

    @property
    def share(self) -> float:
        """Share of the examples that this process has."""
        ...

    @property
    def size(self) -> int:
        """Number of processes with batches of their own."""
        ...

    @property
    def factor(self) -> float:
        """What the loss of this process is multiplied by before it is differentiated."""
        ...

    @property
    def batches(self) -> int:
        """Number of batches that the results of one process are of."""
        ...

    def inside(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a block in which this process may evaluate the model.

        Args:
            model: The model.
        """
        ...

    def whole(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return parameters as the model has them inside of the block.

        Args:
            parameters: As the optimizer has them.
        """
        ...

    def vector(self, part: Tensor) -> Tensor:
        """Return a vector over the optimizer's parameters, whose sums are over all that have parts of it.

        Args:
            part: The part of this process.
        """
        ...

    def gather(self, vector: Tensor) -> Tensor:
        """Return a vector over the optimizer's parameters as one over those inside of the block.

        Args:
            vector: The part of this process.
        """
        ...

    def own(self, vector: Tensor) -> Tensor:
        """Return what `gather` undoes: the part of this process.

        Args:
            vector: Over the parameters inside of the block.
        """
        ...

    def reduced(self, gradient: Tensor) -> Tensor:
        """Return a gradient as those of all batches together, where passes have averaged a part of it.

        Args:
            gradient: What a backward pass of this process left, over the parameters inside of the block; may
                be changed in place.
        """
        ...

    def over(self, parameters: Sequence[Tensor]) -> None:
        """Let the vectors be over other parameters from here on.

        Args:
            parameters: As the optimizer has them.
        """
        ...

    def between_passes(self, model: nn.Module) -> None:
        """Follow a forward pass that is not differentiated.

        Args:
            model: The model.
        """
        ...

    def everyones(self, *scalars: float, topic: int) -> tuple[float, ...]:
        """Return the plain sums of scalars over all batches.

        Args:
            *scalars: At most eight numbers.
            topic: What this message is about, the same in all processes.
        """
        ...

    def mean(self, vector: Tensor, *scalars: float, topic: int) -> tuple[Tensor, tuple[float, ...]]:
        """Return the mean of a vector, weighted by the shares, and the plain sums of scalars.

        Args:
            vector: Shape (n,).
            *scalars: At most eight numbers.
            topic: What this message is about, the same in all processes.
        """
        ...

    def end(self, *scalars: float) -> tuple[float, ...]:
        """Return the sums of scalars, once every process has come to the end of the measurement.

        Args:
            *scalars: At most eight numbers.
        """
        ...


class _Alone:
    """One process: nothing is exchanged."""

    share, size = 1.0, 1
    factor, batches = 1.0, 1

    def inside(self, model: nn.Module) -> AbstractContextManager[None]:
        reason = why_not_spread(model) if is_spread(model) else ""
        if reason:
            raise ProbeRefusedError(reason)
        return alone(model)

    def whole(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        return parameters

    def vector(self, part: Tensor) -> Tensor:
        return part

    def gather(self, vector: Tensor) -> Tensor:
        return vector

    def own(self, vector: Tensor) -> Tensor:
        return vector

    def reduced(self, gradient: Tensor) -> Tensor:
        return gradient

    def over(self, parameters: Sequence[Tensor]) -> None:
        del parameters

    def between_passes(self, model: nn.Module) -> None:
        del model

    def everyones(self, *scalars: float, topic: int) -> tuple[float, ...]:
        del topic
        return scalars

    def mean(self, vector: Tensor, *scalars: float, topic: int) -> tuple[Tensor, tuple[float, ...]]:
        del topic
        return vector, scalars

    def end(self, *scalars: float) -> tuple[float, ...]:
        return scalars


ALONE: Joint = _Alone()
"""A measurement of one process."""


class JointProbe(_Alone):
    """A measurement of all processes; use it in a ``with`` block, whose end without `end` abandons it.

    Each has all parameters, so that it evaluates the model by itself.

    The message is allocated here, before anyone waits for it.

    Args:
        channel: The connection.
        length: n, the length of the vectors, the same in all processes.
        dtype: Of the vectors.
        scalars: How many numbers a message can have besides.

    Attributes:
        share: Share of the examples that this process has; set it before the first message.
        settled: Whether all processes know that the probe is over.

    Raises:
        RuntimeError: If there is no memory for the message.
    """

    def __init__(self, channel: Channel, length: int, dtype: torch.dtype, *, scalars: int = _SCALARS) -> None:
        self._channel, self._length, self._scalars = channel, length, scalars
        self._message = torch.empty(length + scalars + _FLAGS, dtype=dtype)
        self.share, self.size = 1 / channel.size, channel.size
        self.settled = False

    def mean(self, vector: Tensor, *scalars: float, topic: int) -> tuple[Tensor, tuple[float, ...]]:
        """Return the mean of a vector, weighted by the shares, and the plain sums of scalars.

        Cost: one all-reduce of n + 13 numbers.

        Args:
            vector: Shape (n,), on any device.
            *scalars: At most eight numbers.
            topic: What this message is about, the same in all processes.

        Raises:
            OtherRankError: If another process failed, or is somewhere else.
            ProbeRefusedError: If one refused the probe for good.
            LeftOutError: If one leaves it out.
            ChannelError: If the others can't be reached.
        """
        part = self._message[: self._length]
        part.copy_(vector).mul_(self.share)
        sums = self._exchange(scalars, topic)
        return part.to(vector.device, copy=True), sums

    def everyones(self, *scalars: float, topic: int) -> tuple[float, ...]:
        """Return the plain sums of scalars over all batches; see `mean` for what it raises.

        Args:
            *scalars: At most eight numbers.
            topic: What this message is about, the same in all processes.
        """
        self._message[: self._length].zero_()
        return self._exchange(scalars, topic)

    def end(self, *scalars: float) -> tuple[float, ...]:
        """Return the sums of scalars, once every process has come to the end; see `mean` for what it raises.

        Where this returns in one process, it does in all, so that all act upon the probe or none does.

        Args:
            *scalars: At most eight numbers.
        """
        sums = self.everyones(*scalars, topic=END)
        self.settled = True
        self._channel.confirm()
        return sums

    def _exchange(self, scalars: Sequence[float], topic: int) -> tuple[float, ...]:
        if self.settled:  # what said so was caught by somebody, as by a loss function
            raise OtherRankError("the probe was abandoned before, because a process failed in it")
        tail = self._message[self._length :].zero_()
        tail[: len(scalars)] = torch.tensor(scalars, dtype=tail.dtype)
        flags = tail[self._scalars :]
        flags[_TOPIC], flags[_SQUARE] = topic, topic**2
        self._send()
        failed, refused, left_out, total, square = flags.tolist()
        if failed or refused or left_out:
            self.settled = True
            raise _abandoned(failed, refused)
        # By Cauchy and Schwarz only equal topics have N·Σk² = (Σk)². Both are exact up to 2²⁴.
        if square * self._channel.size != total**2 or total != topic * self._channel.size:
            self.settled = True
            raise OtherRankError(
                "the processes came apart within a probe: one made more products than another, as on "
                "machines that round differently"
            )
        return tuple(tail[: len(scalars)].tolist())

    def _send(self) -> None:
        try:
            self._channel.sum(self._message)
        except ChannelError:
            self.settled = True
            raise

    def __enter__(self) -> Self:
        """Return the probe itself. It may be used again, for another measurement of the same step."""
        self.settled = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell the others, who wait for a message, that this process has left."""
        if self.settled:
            return
        self.settled = True
        self._message.zero_()
        flags = self._message[self._length + self._scalars :]
        refused, left_out = isinstance(error, ProbeRefusedError), isinstance(error, LeftOutError)
        flags[_REFUSED if refused else _LEFT_OUT if left_out else _FAILED] = 1
        # What is raised already is the cause; the next meeting finds a lost channel by itself.
        if not self._channel.lost:
            try:
                self._channel.sum(self._message)
            except ChannelError as lost:
                if error is not None:
                    error.add_note(str(lost))


def _abandoned(failed: float, refused: float) -> Exception:
    if refused:
        return ProbeRefusedError("another process refused the probe; its run log says why")
    if failed:
        count = f"{failed:.0f} other process{'es' if failed > 1 else ''}"
        return OtherRankError(
            f"{count} failed in this probe, which is abandoned everywhere; the log says why"
        )
    return LeftOutError()
