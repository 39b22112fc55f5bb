"""Measure the curvature at a saved checkpoint, from Python and from the command line.

Run it with ``python examples/checkpoint_curvature.py``; it takes a few seconds. It trains a small network,
saves it as a training script would, and measures λ_max of the Hessian and the stability ratio at that
point: first by calls, then by ``foreshock curvature``, which needs nothing but the functions `make` and
`batches` of this file.
"""

import subprocess
import sys
from pathlib import Path

import torch

import foreshock

CHECKPOINT = Path("last.pt")
torch.set_num_threads(1)  # more would only slow down a network as small as this one


def make():
    """Return model, loss and optimizer, untrained: what the checkpoint is loaded into."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 50), torch.nn.Tanh(), torch.nn.Linear(50, 1))
    return model, loss_fn, torch.optim.Adam(model.parameters(), lr=0.01)


def loss_fn(model, batch):
    """Return the mean loss of a batch."""
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def batches():
    """Return the data to measure on; λ_max of a part of the data overestimates that of all of it."""
    x = torch.linspace(-3.14, 3.14, 200)[:, None]
    return [(part, torch.sin(3 * part)) for part in x.split(50)]


def main():
    """Train, save, measure in both ways."""
    model, _, optimizer = make()
    whole = tuple(torch.cat(tensors) for tensors in zip(*batches(), strict=True))
    for _ in range(500):
        optimizer.zero_grad()
        loss_fn(model, whole).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, CHECKPOINT)

    # Several batches count as one, weighted by their sizes.
    data = foreshock.MicroBatches(batches())
    print(foreshock.sharpness(model, loss_fn, data))
    print(foreshock.preconditioned_sharpness(model, optimizer, loss_fn, data))
    print(foreshock.spectrum(model, loss_fn, data))

    here = Path(__file__).resolve()
    names = ["--model", f"{here.stem}:make", "--data", f"{here.stem}:batches"]
    command = [sys.executable, "-m", "foreshock", "curvature", str(CHECKPOINT.resolve()), *names]
    print("\n$ foreshock", *command[3:])
    # Modules are looked for in the working folder, hence cwd.
    print(subprocess.run(command, cwd=here.parent, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":  # the command imports this file, which must not train again
    main()
