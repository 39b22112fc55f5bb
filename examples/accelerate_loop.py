"""A loop with the ``Accelerator`` of accelerate: three added lines.

Run it with ``python examples/accelerate_loop.py``; it takes about ten seconds, and needs
``pip install "foreshock[integrations]"``. `observe` is called for each micro-batch; the accumulation, the
gradient scaler and the clipping of the accelerator are known.
"""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from foreshock.integrations.accelerate import AccelerateMonitor

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a network as small as this one

inputs = torch.randn(1024, 10)
targets = torch.sin(inputs @ torch.randn(10, 3))
loader = DataLoader(TensorDataset(inputs, targets), batch_size=32, shuffle=True, drop_last=True)
model = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)


def loss_fn(model, batch):
    """Return the mean loss of one micro-batch."""
    return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


watch = AccelerateMonitor(accelerator, model, optimizer, loss_fn, "runs/accelerate")
for _ in range(10):
    for batch in loader:
        with accelerator.accumulate(model):
            loss = loss_fn(model, batch)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            forecast = watch.observe(batch, loss)  # after clipping, before the step
            optimizer.step()
            optimizer.zero_grad()
print(forecast)
print("Now make a page of it: foreshock report runs/accelerate")
