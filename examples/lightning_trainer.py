"""The ``Trainer`` of Lightning: one callback, three added lines.

Run it with ``python examples/lightning_trainer.py``; it takes about ten seconds, and needs
``pip install "foreshock[integrations]"``. For ``pytorch_lightning``, the older name, import the callback from
``foreshock.integrations.pytorch_lightning``.
"""

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from foreshock.integrations.lightning import ForeshockCallback

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a network as small as this one


class Regression(lightning.LightningModule):
    """A small network; its ``training_step`` is also what the monitor measures, with logging switched off."""

    def __init__(self):
        """Make the network."""
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3))

    def configure_optimizers(self):
        """Return plain AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)

    def training_step(self, batch, _):
        """Return the mean loss of a batch."""
        loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss


inputs = torch.randn(1024, 10)
targets = torch.sin(inputs @ torch.randn(10, 3))
loader = DataLoader(TensorDataset(inputs, targets), batch_size=32, shuffle=True, drop_last=True)
callback = ForeshockCallback("runs/lightning")
trainer = lightning.Trainer(
    max_epochs=10, accelerator="cpu", gradient_clip_val=1.0, accumulate_grad_batches=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[callback],
)  # fmt: skip
trainer.fit(Regression(), loader)
print(callback.monitor.forecast)
print("Now make a page of it: foreshock report runs/lightning")
