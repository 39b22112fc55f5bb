"""A connection between the processes that is used for nothing else."""

from __future__ import annotations

import re
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
        self._timeout, self._confirmed = peers.timeout, 0
        distributed: Any = torch.distributed
        try:
            self._store: Any = distributed.PrefixStore(name, peers.store)
            self._group = distributed.ProcessGroupGloo(self._store, peers.rank, peers.size, peers.timeout)
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
            ChannelError: If that fails; the channel is then closed, here and for the others.
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

    def confirm(self) -> None:
        """Make sure that all processes got the last sum: where this returns in one, it does in all.

        A sum alone can't do that: one process may have its result while another, that waited too long, does
        not. What only one acts upon makes replicas drift apart, so the store, which is one, has the last
        word. Cost: two short messages to it.

        Raises:
            ChannelError: If one did not; the channel is then closed.
        """
        self._confirmed += 1
        key = f"confirmed/{self._confirmed}"
        try:
            if self._store.add(f"{key}/count", 1) == self.size:
                said = self._store.compare_set(key, "", "yes")
            else:
                said = self._awaited(key)
            if said == b"yes" and self.rank == 0 and self._confirmed > 1:
                self._forget(self._confirmed - 1)
        except RuntimeError as error:
            self.close()
            raise ChannelError(_unreachable(error)) from error
        if said != b"yes":
            self.close()
            raise ChannelError(_unreachable(RuntimeError("one did not come to the end of the probe")))

    def _awaited(self, key: str) -> Any:
        try:
            self._store.wait([key], self._timeout)
        except RuntimeError:
            return self._store.compare_set(key, "", "no")
        return self._store.get(key)

    def _forget(self, number: int) -> None:
        # All have come past it, and a long run must not fill the memory of the store.
        for key in (f"confirmed/{number}", f"confirmed/{number}/count"):
            self._store.delete_key(key)

    def close(self) -> None:
        """Make no more sums; a process that waits for one gets an error at once."""
        self._group = None


def _unreachable(error: Exception) -> str:
    line = re.sub(
        r"^\[\S+\] ", "", str(error).strip().partition("\n")[0]
    )  # gloo begins with a line of its source
    return (
        f"another process of this training did not take part ({line}): let each rank observe the same steps, "
        "with a monitor of the same options"
    )
