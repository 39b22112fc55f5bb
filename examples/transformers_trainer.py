"""The ``Trainer`` of transformers: one callback, three added lines.

Run it with ``python examples/transformers_trainer.py``; it takes about twenty seconds, and needs
``pip install "foreshock[integrations]"``. A tiny GPT-2 learns the text of this file, byte by byte, with
gradient accumulation and the Trainer's own clipping.
"""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from foreshock.integrations.transformers import ForeshockCallback

torch.set_num_threads(1)  # more would only slow down a model as small as this one

text = torch.frombuffer(bytearray(Path(__file__).read_bytes()), dtype=torch.uint8).long()
pieces = [{"input_ids": piece, "labels": piece} for piece in text.unfold(0, 32, 8)]
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
)
arguments = TrainingArguments(
    "out/trainer", max_steps=120, per_device_train_batch_size=8, gradient_accumulation_steps=2,
    learning_rate=3e-3, max_grad_norm=1.0, logging_steps=40, save_strategy="no", report_to=[],
    use_cpu=True, disable_tqdm=True,
)  # fmt: skip
callback = ForeshockCallback("runs/trainer")
trainer = Trainer(model, arguments, train_dataset=pieces, callbacks=[callback])
trainer.train()
print(callback.monitor.forecast)
print("Now make a page of it: foreshock report runs/trainer")
