"""A monitor or guard in a checkpoint of ``torch.distributed.checkpoint``, for any number of processes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Protocol

import torch

_KEY = "state"


class Resumable(Protocol):
    """What can be saved without what is as long as the parameters: `foreshock.Monitor`, and a guard."""

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return what a resumed run needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...


class Checkpointed:
    """A monitor or guard as ``torch.distributed.checkpoint`` saves and loads it.

    Save and load it beside model and optimizer, in every process. What is saved are the numbers that all
    processes share – the steps, what the forecast has seen, what the guard remembers – as a few kilobytes of
    one process, so that a run may be resumed by more or fewer processes, or with a model that is shared in
    another way. The eigenvectors of the last probe are not among them: the next probe starts as the first one
    of a run does, which takes some more products, once.

    Args:
        watched: The monitor, or the guard. A monitor has the state of its own guard with it.

    Example:
        >>> import foreshock
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> monitor = foreshock.Monitor(model, optimizer)
        >>> loss = model(torch.ones(4, 2)).mean()
        >>> loss.backward()
        >>> _ = monitor.observe(torch.ones(4, 2), loss, step=7)
        >>> state = Checkpointed(monitor).state_dict()  # as dcp.save asks for
        >>> resumed = foreshock.Monitor(model, optimizer)
        >>> Checkpointed(resumed).load_state_dict(state)
        >>> resumed.forecast.step
        7
    """

    def __init__(self, watched: Resumable) -> None:
        self._watched = watched

    def __repr__(self) -> str:
        """Return what is saved."""
        return f"<Checkpointed {self._watched!r}>"

    def state_dict(self) -> dict[str, Any]:
        """Return the state as one object, which a checkpoint keeps once for all processes."""
        content = io.BytesIO()
        torch.save(self._watched.state_dict(vectors=False), content)
        return {_KEY: content.getvalue()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what was saved.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: If it is none, or of a guard of another policy.
        """
        content = state.get(_KEY)
        if not isinstance(content, bytes):
            raise ValueError(
                f"the checkpoint has {type(content).__name__} where the state of a monitor or guard was "
                "expected: save foreshock.Checkpointed(monitor) under the same name as it is loaded"
            )
        self._watched.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
