"""A measurement in one call, without a monitor: by this process, or by all that hold a model together."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from foreshock.batches import MicroBatches, count_examples
from foreshock.curvature.blocks import name_parameters
from foreshock.distributed import (
    ALONE,
    Channel,
    Joint,
    JointProbe,
    is_spread,
    joint_probe,
    training_peers,
    why_not_spread,
)
from foreshock.distributed.joint import COUNTS
from foreshock.failures import ProbeRefusedError
from foreshock.isolation import isolated, plain_module

_LONGEST_WAIT = dt.timedelta(seconds=60)


@contextmanager
def one_call(
    model: nn.Module, loss_fn: Any, batch: Any, parameters: Callable[[], Sequence[Tensor]]
) -> Iterator[tuple[Joint, Sequence[Tensor]]]:
    """Run a block in which a model is measured, and leave everything as it was.

    A model that ``fully_shard`` or tensor parallelism spreads over processes is measured by all of them, each
    with its batch: all must call this at the same place. It waits for the others for a minute at most.

    Args:
        model: The model.
        loss_fn: Its loss function, or several in a tuple.
        batch: That of this process, whose number of examples is its weight among the others.
        parameters: Returns what is measured, as the optimizer has it.

    Yields:
        Who measures, and the parameters.

    Raises:
        ProbeRefusedError: If the model is spread in a way that can't be measured.
        ChannelError: If the others don't come.
        OtherRankError: If another process failed.
    """
    with isolated(model, loss_fn):
        model = plain_module(model)
        chosen = parameters()
        if not is_spread(model):
            yield ALONE, chosen
            return
        with _joined(model, chosen) as joint:
            joint.share = _share(joint, batch)
            with joint.inside(model):
                yield joint, chosen
            joint.end()


def names_of(model: nn.Module, parameters: Sequence[Tensor], joint: Joint) -> list[tuple[str, Tensor]]:
    """Return parameters with their names in a model, as `name_parameters` does; inside of the block.

    Args:
        model: The model.
        parameters: As the optimizer has them.
        joint: Who measures.
    """
    named = name_parameters(plain_module(model), joint.whole(parameters))
    return [(name, one) for (name, _), one in zip(named, parameters, strict=True)]


@contextmanager
def _joined(model: nn.Module, parameters: Sequence[Tensor]) -> Iterator[JointProbe]:
    reason = why_not_spread(model)
    if reason:
        raise ProbeRefusedError(reason)
    peers = training_peers(model)
    if peers is None:
        raise ProbeRefusedError(
            "the parameters are distributed tensors, but their process group is gone: measure before "
            "torch.distributed.destroy_process_group()"
        )
    # Who calls a function may be late for it, as one that has a checkpoint to write.
    peers = replace(peers, timeout=min(4 * peers.timeout, _LONGEST_WAIT))
    number = peers.store.add(f"one call/count/{peers.rank}", 1)
    channels = [Channel(peers, f"one call/{number}")]
    try:
        group = peers.same_batch_apart()
        if group is not None:
            channels.append(Channel(group, f"one call/{number}"))
        data = channels[1] if group is not None else None
        with joint_probe(peers, channels[0], data, parameters) as joint:
            yield joint
    finally:
        for one in channels:
            one.close()


def _share(joint: JointProbe, batch: Any) -> float:
    """Return the share of this process in the examples; equal ones where one does not know its number."""
    count = math.nan
    with suppress(ValueError):
        count = float(
            sum(weight for _, weight in batch.weighted())
            if isinstance(batch, MicroBatches)
            else count_examples(batch)
        )
    (total,) = joint.everyones(count, topic=COUNTS)
    return count / total if 0 < total < math.inf else 1 / joint.size
