"""What would have helped? A run with spikes, its snapshots, and the commands that train it again, changed.

Run it with ``python examples/replay_digits.py``; it takes about ten seconds. Then, from the same folder::

    foreshock replay runs/digits --model replay_digits:build --data replay_digits:batches --set lr=x0.5
    foreshock advise runs/digits --model replay_digits:build --data replay_digits:batches
"""

import torch
from sklearn.datasets import load_digits

import foreshock
from foreshock.replay import Loop


def loss_fn(model, batch):
    """Return the mean squared error of the one-hot labels."""
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def build():
    """Build the training as it is at its start, whoever calls it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 10))
    return Loop(model, loss_fn, torch.optim.Adam(model.parameters(), lr=0.02))


def batches():
    """Yield the batches from the first step on, in the same order each time: here all 200 images."""
    digits = load_digits()
    inputs = torch.tensor(digits.data[:200], dtype=torch.float32) / 16
    targets = torch.eye(10)[digits.target[:200]]
    while True:
        yield inputs, targets


def main():
    """Train for 1,500 steps with a monitor and a recorder."""
    loop = build()
    recorder = foreshock.Recorder(every=150)  # by itself it goes by the clock, and no two runs are alike
    given = loop.model, loop.optimizer, loss_fn
    with foreshock.Monitor(*given, run="runs/digits", recorder=recorder) as monitor:
        for _, batch in zip(range(1500), batches(), strict=False):
            loss = loop.backward(batch)  # zero_grad, loss, backward
            monitor.observe(batch, loss)
            loop.update()  # optimizer.step
    snapshots = foreshock.recorder.list_snapshots("runs/digits")
    print(f"{len(snapshots)} snapshots, from before alarms and spikes: the last is {snapshots[-1].name}")

    # In Python: the window after the last snapshot, as it was and at half the learning rate.
    snapshot = foreshock.load_snapshot("runs/digits")
    for change in ("", "lr=x0.5"):
        parsed = foreshock.replay.parse_change(change) if change else None
        outcome = foreshock.replay.replay(snapshot, build(), batches(), steps=200, change=parsed)
        print(f"{outcome.change}: {len(outcome.spikes)} spikes in 200 steps, loss {outcome.late_loss:.3g}")


if __name__ == "__main__":
    main()
