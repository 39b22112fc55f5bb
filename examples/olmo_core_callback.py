"""A trainer with callbacks like OLMo-core's: the monitor is a callback with three hooks.

Run it with ``python examples/olmo_core_callback.py``; it takes about ten seconds. The stand-in has the
hooks of OLMo-core's ``Callback`` that matter: `pre_train`, `pre_optim_step`, `post_train`, and state in
checkpoints. The class is what you copy; two lines make and pass it.
"""

import torch
from torch import nn

import foreshock

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a network as small as this one


class ForeshockCallback:
    """Watch a trainer that calls its hooks with the batch and loss of the step at hand."""

    def __init__(self, run):
        """Remember the folder of the run log."""
        self.run, self.monitor, self.saved = run, None, None

    def pre_train(self, trainer):
        """Make the monitor, once the optimizer has its state."""
        self.monitor = foreshock.Monitor(trainer.model, trainer.optim, trainer.loss_fn, run=self.run)
        if self.saved:
            self.monitor.load_state_dict(self.saved)

    def pre_optim_step(self, trainer):
        """Observe: after ``backward()``, before ``optim.step()``."""
        self.monitor.observe(trainer.batch, trainer.loss, step=trainer.global_step)

    def post_train(self, _):
        """Close the run log."""
        self.monitor.close()

    def state_dict(self):
        """Return what goes into a checkpoint."""
        return self.monitor.state_dict()

    def load_state_dict(self, state):
        """Keep what a checkpoint had until training begins."""
        self.saved = state


class Trainer:
    """A stand-in for ``olmo_core.train.Trainer``."""

    def __init__(self, model, optim, callbacks):
        """Keep model, optimizer and callbacks."""
        self.model, self.optim, self.callbacks = model, optim, callbacks
        self.global_step, self.batch, self.loss = 0, None, None

    @staticmethod
    def loss_fn(model, batch):
        """Return the mean loss of a batch."""
        return nn.functional.cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())

    def call(self, hook):
        """Call a hook of each callback."""
        for callback in self.callbacks.values():
            getattr(callback, hook)(self)

    def fit(self, steps):
        """Train."""
        self.call("pre_train")
        for _ in range(steps):
            tokens = torch.randint(0, 16, (16, 12))
            self.batch = {"input_ids": tokens, "labels": (tokens + 1).roll(-1, 1) % 16}
            self.optim.zero_grad(set_to_none=True)
            self.loss = self.loss_fn(self.model, self.batch)
            self.loss.backward()
            self.call("pre_optim_step")
            self.optim.step()
            self.global_step += 1
        self.call("post_train")


layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True)
model = nn.Sequential(nn.Embedding(16, 32), layer, nn.Linear(32, 16))
callback = ForeshockCallback("runs/olmo")
trainer = Trainer(model, torch.optim.AdamW(model.parameters(), lr=3e-3), {"foreshock": callback})
trainer.fit(200)
print(callback.monitor.forecast)
print("Now make a page of it: foreshock report runs/olmo")
