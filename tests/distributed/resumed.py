"""Runs that are resumed by more or fewer processes from a checkpoint of torch.distributed.checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

sys.path.insert(0, str(Path(__file__).parents[1]))

import foreshock
from distributed.processes import Training, close, loss_fn, require
from foreshock.runlog import read_run

FIRST, SECOND, AGAIN = 21, 20, 10
"""Steps before the checkpoint, after it, and after each one of several."""


class Resumable:
    """A training with its monitor and guard."""

    def __init__(self, model, parts, folder):
        self.run = Training(model, parts=parts)
        self.guard = foreshock.guard(self.run.optimizer, "secant")
        self.monitor = foreshock.Monitor(
            self.run.model, self.run.optimizer, loss_fn, run=folder, probe_every=5, full_batch=True
        )

    def train(self, steps):
        self.run.run(steps=steps, constant=True, monitor=self.monitor)

    def state(self):
        model, optimizer = get_state_dict(self.run.model, self.run.optimizer)
        watching = {"monitor": self.monitor, "guard": self.guard}
        kept = {name: foreshock.Checkpointed(one) for name, one in watching.items()}
        return {"model": model, "optimizer": optimizer, **kept}

    def save(self, folder, **options):
        dcp.save(self.state(), checkpoint_id=folder, **options)
        return self.guard.state_dict(vectors=False)

    def load(self, folder, **options):
        state = self.state()
        dcp.load(state, checkpoint_id=folder, **options)
        set_state_dict(
            self.run.model,
            self.run.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        return self.guard.state_dict(vectors=False)


def whole(parameters):
    return [one.detach().full_tensor() if hasattr(one, "full_tensor") else one.detach() for one in parameters]


def compare(resumed, reference, folder, rank, name, *, states=True):
    """Require that a resumed run is what it would have been without the break.

    Whether a ratio rises is a matter of the second digit just after a break: there states are not compared.
    """
    weights = whole(resumed.run.model.parameters())  # by all, also where one alone has something to compare
    if reference is None:
        return
    pairs = zip(weights, reference.run.model.parameters(), strict=True)
    apart = max((one - other).abs().max().item() for one, other in pairs)
    require(apart <= 1e-9, f"{name}: weights are {apart} apart")
    require(resumed.guard.step == reference.guard.step, f"{name}: {resumed.guard} and {reference.guard}")
    now, then = resumed.monitor.forecast, reference.monitor.forecast
    require(now.step == then.step, f"{name}: {now} and {then}")
    require(not states or now.state == then.state, f"{name}: {now} and {then}")
    close(now.lag, then.lag, 1e-6, f"{name}: lag")  # of 50 steps, so also of those before
    found = {row["step"]: row["stability_ratio"] for row in read_run(folder, rank=rank).records["curvature"]}
    for row in read_run(reference.folder, rank=rank).records["curvature"]:
        if row["step"] >= FIRST:  # each is known to half a percent or two
            close(found[row["step"]], row["stability_ratio"], 0.03, f"{name}: step {row['step']}")


def resumed(rank, folder, make, plain, parts):
    """Two processes and then one, one and then two: as in one go, in one log."""
    reference = in_one_go(rank, folder, plain)
    together = Resumable(make(), parts, folder / "two")
    together.train(FIRST)
    kept = together.save(folder / "of two")
    together.monitor.close()
    torch.distributed.barrier()
    if not rank:
        alone = Resumable(plain(), None, folder / "two")
        found = alone.load(folder / "of two", no_dist=True)
        require(str(found) == str(kept), f"another guard: {found} instead of {kept}")
        alone.train(SECOND)
        alone.monitor.close()
        compare(alone, reference, folder / "two", rank, "two to one")
        steps = read_run(folder / "two").steps("step").tolist()
        require(steps == list(range(FIRST + SECOND)), f"the log has {steps}")
        before = Resumable(plain(), None, folder / "one")
        before.train(FIRST)
        before.save(folder / "of one", no_dist=True)
        before.monitor.close()
    torch.distributed.barrier()
    goes_on(rank, folder / "one", folder / "of one", make, parts, reference)


def in_one_go(rank, folder, plain, steps=FIRST + SECOND):
    reference = Resumable(plain(), None, folder / f"reference{rank}")
    reference.folder = folder / f"reference{rank}"
    reference.train(steps)
    require(reference.guard.summary().acted == 0, f"the guard acted: {reference.guard.summary()}")
    return reference


def goes_on(rank, folder, saved, make, parts, reference):
    """Go on from a checkpoint, in the log of those who wrote it."""
    both = Resumable(make(), parts, folder)
    both.load(saved)
    both.train(SECOND)
    both.monitor.close()
    compare(both, reference, folder, rank, f"{saved.name} to {torch.distributed.get_world_size()}")


def of_another_size(rank, folder, make, plain, parts):
    """Go on for ten steps from what a world of another size has left, if one has; leave something in turn."""
    saved = sorted(folder.glob("at *"))
    begun = int(saved[-1].name.split()[1]) if saved else 0
    run = Resumable(make(), parts, folder / "run")
    if saved:
        run.load(saved[-1])
    steps = AGAIN if saved else FIRST
    run.train(steps)
    torch.distributed.barrier()  # each has looked for what was saved
    run.save(folder / f"at {begun + steps}")
    run.monitor.close()
    name = f"from step {begun} in {torch.distributed.get_world_size()}"
    reference = None if rank else in_one_go(0, folder / name, plain, begun + steps)
    compare(run, reference, folder / "run", rank, name, states=False)
