"""A connection between the processes that is used for nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foreshock.distributed.peers import Peers


class ChannelError(RuntimeError):
    """The other processes can't be reached: one has ended, or did not come in time."""


class Channel:
    """Sums over all processes, over connections of their own.

    It is gloo also where training uses NCCL: what waits too long then raises an error here, and leaves the
    collectives of training as they are; a watchdog of NCCL would end the process. Tensors on a GPU pass
    through the memory of the host. It is not registered with ``torch.distributed``, so that the names and
    the order of the user's groups stay what they are.

    Every process must call each method at the same place.

    Args:
        peers: The processes.
        name: A name that all of them use, for this channel only.

    Attributes:
        collectives: Sums so far.
        bytes: What this process put into them.

    Raises:
        ChannelError: If one of the others does not come in time.
    """

    def __init__(self, peers: Peers, name: str) -> None:
        self.size, self.rank = peers.size, peers.rank
        self.collectives = self.bytes = 0
        self._timeout = peers.timeout
        distributed: Any = torch.distributed
        try:
            store = distributed.PrefixStore(name, peers.store)
            self._group = distributed.ProcessGroupGloo(store, peers.rank, peers.size, peers.timeout)
        except RuntimeError as error:
            raise ChannelError(_unreachable(error)) from error

    @property
    def lost(self) -> bool:
        """Whether a sum failed, after which there are no more."""
        return self._group is None

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor of the host over all processes, in place; each gets the same bits.

        Args:
            tensor: Of the same shape and dtype in each.

        Raises:
            ChannelError: If that fails; the channel is then closed, and the others wait for their time-out.
        """
        if self._group is None:
            raise ChannelError("the connection to the other processes was lost before")
        self.collectives += 1
        self.bytes += tensor.numel() * tensor.element_size()
        try:
            self._group.allreduce([tensor]).wait()
        except RuntimeError as error:
            self.close()
            raise ChannelError(_unreachable(error)) from error
        return tensor

    def close(self) -> None:
        """Make no more sums; a process that waits for one gets an error after its time-out."""
        self._group = None


def _unreachable(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return (
        f"another process of this training did not take part ({line}): let each rank observe the same steps, "
        "with a monitor of the same options"
    )
