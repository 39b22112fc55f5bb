"""A loop like nanoGPT's: gradient scaler, accumulation, clipping and warm-up by hand; three added lines.

Run it with ``python examples/nanogpt_loop.py``; it takes about twenty seconds. The model, as there, returns
``(logits, loss)``, and the loss of each micro-batch is divided by their number.
"""

import sysconfig
from pathlib import Path

import torch
from torch import nn

import foreshock

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a model as small as this one
block_size, batch_size, accumulation, grad_clip, max_iters = 32, 8, 4, 1.0, 150
data = torch.frombuffer(
    bytearray(Path(sysconfig.get_paths()["stdlib"], "argparse.py").read_bytes()), dtype=torch.uint8
).long()


class GPT(nn.Module):
    """A stand-in for nanoGPT's model: one block, and its interface."""

    def __init__(self, width=32):
        """Make the model."""
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(block_size, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, tokens, targets):
        """Return the logits and the mean loss."""
        mask = nn.Transformer.generate_square_subsequent_mask(block_size)
        hidden = self.token(tokens) + self.place.weight
        logits = self.head(self.block(hidden, src_mask=mask, is_causal=True))
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def get_batch():
    """Return inputs and targets of one micro-batch."""
    starts = torch.randint(len(data) - block_size - 1, (batch_size,)).tolist()
    both = torch.stack([data[start : start + block_size + 1] for start in starts])
    return both[:, :-1], both[:, 1:]


def get_lr(step):
    """Return the learning rate of a step: warm-up, then constant."""
    return 3e-3 * min(1.0, (step + 1) / 20)


model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=get_lr(0), betas=(0.9, 0.95), weight_decay=0.1)
scaler = torch.amp.GradScaler("cuda", enabled=False)  # enabled where dtype is float16
monitor = foreshock.Monitor(
    model, optimizer, lambda m, b: m(*b)[1], run="runs/nanogpt", learning_rate_at=get_lr
)

for step in range(max_iters):
    optimizer.param_groups[0]["lr"] = get_lr(step)
    batches, total = [get_batch() for _ in range(accumulation)], 0.0
    for tokens, targets in batches:
        logits, loss = model(tokens, targets)
        loss = loss / accumulation
        total = total + loss.detach()
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    # After unscaling and clipping, before the step; all micro-batches, and the mean of their losses.
    forecast = monitor.observe(foreshock.MicroBatches(batches), total, gradient_norm=norm, max_norm=grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if step % 50 == 0:
        print(f"step {step}: loss {total:.3f}, gradient norm {norm:.2f}")
print(forecast)
print("Now make a page of it: foreshock report runs/nanogpt")
