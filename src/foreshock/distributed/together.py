"""Steps at which all processes meet: who takes part is settled once, through the store, without waiting."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from foreshock.distributed.channel import Channel, ChannelError
from foreshock.distributed.joint import JointProbe
from foreshock.distributed.peers import Peers
from foreshock.distributed.sharded import ShardedProbe
from foreshock.vectors import vector_dtype

_LOGGER = logging.getLogger("foreshock")
_PATIENCE = 5  # observed steps after which a process that misses others goes on alone
_AHEAD = 3  # steps from the decision to the first meeting; behind DDP no process is two steps ahead
_ALONE = "alone"
_NOTHING = "nothing"
_STEPS = 4096  # steps are compared modulo this, so that sums of their squares are exact


@dataclass(frozen=True)
class Meeting:
    """What all processes agreed upon at one step.

    Attributes:
        what: What is measured now; None for nothing.
        losses: Mean loss over all processes at the last steps, weighted by their examples, by step.
        share: Share of this process in the examples of the present step.
        remark: Why nothing is measured though a process wants to; empty otherwise.
        sums: What was to be added up over all processes, by step.
        same: Whether the marks of all processes are the same; of other ones one in four thousand is missed.
    """

    what: str | None
    losses: dict[int, float]
    share: float
    remark: str = ""
    sums: dict[int, tuple[float, ...]] = field(default_factory=dict)
    same: bool = True


class Together:
    """Let processes that train together measure together.

    Each registers in the store at its first step. When all have, the first of them writes at which step they
    begin to meet; where one does not come within five steps, or has other options, that is written instead
    that each measures alone. The first to write decides, and no process waits for another. From then on
    they meet at steps that their numbers alone determine, in one sum of a few numbers. A process that is
    closed, dropped or gives up leaves word in the store, which the others read before they meet; one that
    stays away without a word is waited for once, for seconds, and then each measures alone for good.

    Args:
        peers: The processes.
        purpose: What this is for, a word that goes into the names of keys.
        signature: Options that have to be the same in all processes.
        every: Steps from one meeting to the next, ≥ 1: they meet at its multiples.
        fixed: Steps from one fixed probe to the next, which are meetings, too; None if there are none.
        choices: What can be agreed upon, the one that prevails first.
        sums: How many numbers of each step are added up over all processes besides.

    Attributes:
        alone: Why this process measures alone; empty while that is open, and while they measure together.
        channel: The connection; None before the first meeting.
    """

    def __init__(
        self,
        peers: Peers,
        purpose: str,
        *,
        signature: str,
        every: int,
        fixed: int | None = None,
        choices: Sequence[str] = (),
        sums: int = 0,
    ) -> None:
        self._peers, self._purpose, self._signature = peers, purpose, signature
        self._every, self._fixed, self._choices = every, fixed, (*choices, _NOTHING)
        # The first meeting also has the steps from before they began.
        self._window = every + _PATIENCE + _AHEAD
        self._key, self._owner = "", os.getpid()
        self._leave: Any = None  # leaves word for the others, once; also when this is dropped
        self._begin: int | None = None
        self._previous: int | None = None  # the last step that was observed
        self._seen = 0
        self._losses: dict[int, tuple[float, float]] = {}
        self._width, self._sums = sums, dict[int, Sequence[float]]()
        self.channel: Channel | None = None
        self._data: Channel | None = None  # of those with the same part of the model, where that is not all
        self.alone = ""

    @property
    def size(self) -> int:
        """Number of processes."""
        return self._peers.size

    @property
    def pending(self) -> bool:
        """Whether it is still open who takes part."""
        return not self.alone and self._begin is None

    def meets(self, step: int) -> bool:
        """Take a step into account; return whether the processes meet at it. Nothing is waited for.

        Args:
            step: Step number, the same in all processes.
        """
        if os.getpid() != self._owner:
            # Its connections are those of the process that it was forked from.
            self.alone = self.alone or "this process was forked from one that is watched"
            return False
        previous, self._previous = self._previous, step
        lost = any(one is not None and one.lost for one in (self.channel, self._data))
        if lost and not self.alone:
            self._lose("a probe of all processes broke off")
        if self.pending:
            try:
                self._settle(step)
            except Exception as error:  # noqa: BLE001 - a store that fails must not end a training run
                self.alone = f"the store of torch.distributed failed ({error})"
        if self.alone or self._begin is None or step < self._begin:
            return False
        before = step - 1 if previous is None else previous
        due = any(one is not None and step // one > before // one for one in (self._every, self._fixed))
        return due and not self._is_left()

    def probe(self, parameters: Sequence[Tensor]) -> JointProbe | None:
        """Return the messages of a probe, allocated; None without the memory or the connection for it.

        Args:
            parameters: What its vectors are over, as the optimizer has them.
        """
        try:
            self._connect()
        except ChannelError as error:
            self._lose(str(error))
        try:
            return (
                None
                if self.channel is None
                else joint_probe(self._peers, self.channel, self._data, parameters)
            )
        except (RuntimeError, MemoryError):
            return None

    def note(self, step: int, loss: float, examples: int | None, sums: Sequence[float] = ()) -> None:
        """Note the loss of a step, for the next meeting.

        Args:
            step: Step number.
            loss: Loss of this process.
            examples: Number of examples behind it; None if unknown, which counts as one.
            sums: Numbers of the step to be added up over all processes, as many as were announced.
        """
        self._losses[step] = (loss, float(examples or 1))
        self._sums[step] = sums

    def meet(self, step: int, want: str | None, *, mark: int = 0) -> Meeting | None:
        """Meet at a step that `meets` named: one sum of a few numbers. None if that failed, for good.

        Args:
            step: Step number.
            want: What this process would measure; None for nothing.
            mark: A number that should be the same in all processes, as a checksum.
        """
        wish = want if want in self._choices else _NOTHING
        window = range(step - self._window + 1, step + 1)
        rows = [self._losses.get(one, (0.0, 0.0)) for one in window]
        kept, self._losses, self._sums = self._sums, {}, {}
        nothing = (0.0,) * self._width
        message = torch.tensor(
            [
                float(step % _STEPS),
                float(step % _STEPS) ** 2,
                float(mark % _STEPS),
                float(mark % _STEPS) ** 2,
                *(float(one == wish) for one in self._choices),
                *(loss * count if count else 0.0 for loss, count in rows),
                *(count for _, count in rows),
                *(value for one in window for value in kept.get(one, nothing)),
            ],
            dtype=torch.float64,
        )
        try:
            self._connect()
            if self.channel is None:
                return None
            sums = self.channel.sum(message).tolist()
        except ChannelError as error:
            self._lose(str(error))
            return None
        (total, square, marks, mark_square), rest = sums[:4], sums[4:]
        if square * self.size != total**2:
            self._lose("the ranks observe other steps: call observe at the same steps in each")
            return None
        votes, rest = rest[: len(self._choices)], rest[len(self._choices) :]
        (weighted, counts), rest = (rest[: self._window], rest[self._window :]), rest[2 * self._window :]
        counts = counts[: self._window]
        known = {one: tuple(rest[k * self._width :][: self._width]) for k, one in enumerate(window)}
        summed = zip(window, weighted, counts, strict=True)
        means = {one: value / count for one, value, count in summed if count > 0}
        # Those that train on the same batch count its examples several times.
        copies = self._peers.copies
        share = copies * (rows[-1][1] / counts[-1] if counts[-1] > 0 else 1 / self.size)
        found = self._meeting(votes, means, share, {one: known[one] for one in means})
        return replace(found, same=mark_square * self.size == marks**2)

    def exchange(self, *own: float) -> list[tuple[float, ...]] | None:
        """Return the numbers of all processes, one row each; None if that failed, for good.

        All call it at the same place, with as many numbers. Cost: one sum of them, for each process.

        Args:
            *own: Those of this process.
        """
        rows = torch.zeros(self.size, len(own), dtype=torch.float64)
        rows[self._peers.rank] = torch.tensor(own, dtype=torch.float64)
        try:
            self._connect()
            if self.channel is None:
                return None
            self.channel.sum(rows)
        except ChannelError as error:
            self._lose(str(error))
            return None
        return [tuple(row) for row in rows.tolist()]

    def confirm(self) -> bool:
        """Return whether all processes got the last rows: the same in each of them."""
        try:
            if self.channel is not None:
                self.channel.confirm()
                return True
        except ChannelError as error:
            self._lose(str(error))
        return False

    def _meeting(
        self,
        votes: Sequence[float],
        means: dict[int, float],
        share: float,
        sums: dict[int, tuple[float, ...]],
    ) -> Meeting:
        tally = dict(zip(self._choices, votes, strict=True))
        against = int(tally.pop(_NOTHING))
        wanted = [one for one in self._choices if tally.get(one, 0) > 0]
        if not wanted:
            return Meeting(None, means, share, sums=sums)
        if against:
            remark = f"{against} of {self.size} processes could not take part in a probe that was due"
            return Meeting(None, means, share, remark, sums)
        return Meeting(wanted[0], means, share, sums=sums)

    def close(self) -> None:
        """Take part no more: the others read so in the store before they meet, and go on alone."""
        if os.getpid() != self._owner:
            return
        if self._leave is not None:
            self._leave()
        for one in (self.channel, self._data):
            if one is not None:
                one.close()
        self.alone = self.alone or "it was closed"

    def leave(self, why: str) -> None:
        """Take part no more, for a reason that is noted.

        Args:
            why: The reason, in words.
        """
        self._lose(why)

    def _connect(self) -> None:
        if self.channel is None and not self.alone:
            channel = Channel(self._peers, f"{self._key}/channel")
            group = self._peers.same_batch_apart()
            self._data = None if group is None else Channel(group, f"{self._key}/data")
            self.channel = channel

    def _lose(self, why: str) -> None:
        self.close()
        self.alone = why
        _LOGGER.warning("%s: each process measures by itself from here on: %s", self._purpose, why)

    def _is_left(self) -> bool:
        """Return whether another process takes part no more, after which this one doesn't either."""
        key = self._key + "/left"
        try:
            said = self._peers.store.get(key).decode() if self._peers.store.check([key]) else ""
        except Exception as error:  # noqa: BLE001 - a store that fails must not end a training run
            said = f"the store of torch.distributed failed ({error})"
        if said:
            self._lose(said)
        return bool(said)

    def _settle(self, step: int) -> None:
        """Register, and read or write the verdict."""
        store: Any = self._peers.store
        if not self._key:
            # Counted for each rank: the third monitor of one belongs to the third of the others.
            number = store.add(f"{self._purpose}/count/{self._peers.rank}", 1)
            self._key = f"{self._purpose}/{number}"
            store.set(f"{self._key}/rank{self._peers.rank}", f"{step}|{self._signature}")
            self._leave = weakref.finalize(self, _leave_word, self._peers, self._key, self._owner)
            # A process that ends closes its connection, and its store may have ended before.
            self._leave.atexit = False
        self._seen += 1
        verdict = self._key + "/verdict"
        said = store.get(verdict).decode() if store.check([verdict]) else ""
        if not said:
            proposal = self._proposal(step)
            said = store.compare_set(verdict, "", proposal).decode() if proposal else ""
        if said.startswith(_ALONE):
            self.alone = said.partition(":")[2]
        elif said:
            self._begin = int(said)
            if not step < self._begin:
                self.alone = "it came after the others had begun"

    def _proposal(self, step: int) -> str:
        keys = [f"{self._key}/rank{rank}" for rank in range(self.size)]
        if self._peers.rank == 0 and self._peers.store.check(keys):
            found = {self._peers.store.get(key).decode() for key in keys}
            if len(found) > 1:
                return f"{_ALONE}:the ranks have other options, or began at other steps"
            return str(step + _AHEAD)
        if self._seen >= _PATIENCE:
            return f"{_ALONE}:not every rank is watched"
        return ""


def joint_probe(
    peers: Peers, channel: Channel, data: Channel | None, parameters: Sequence[Tensor]
) -> JointProbe:
    """Return the messages of a probe.

    Args:
        peers: The processes.
        channel: Their connection.
        data: That of `Peers.same_batch_apart`, if there are such.
        parameters: What its vectors are over, as the optimizer has them.

    Raises:
        RuntimeError: If there is no memory for them.
    """
    if peers.grid is not None:
        return ShardedProbe(channel, data, peers.grid, parameters)
    return JointProbe(channel, sum(one.numel() for one in parameters), vector_dtype(parameters))


def _leave_word(peers: Peers, key: str, owner: int) -> None:
    if os.getpid() != owner or not torch.distributed.is_initialized():
        return  # a forked child leaves the connection alone; without a group nobody trains together
    word = f"the monitor or guard of rank {peers.rank} was closed or dropped, or lost the others"
    try:
        peers.store.set(f"{key}/left", word)
    except Exception as error:  # noqa: BLE001 - the store may have ended before; then nobody waits
        _LOGGER.debug("the store of torch.distributed is gone: %s", error)
