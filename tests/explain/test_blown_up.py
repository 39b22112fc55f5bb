"""Networks whose attention logits, or router, blow up while they are trained: the place is named.

The learning rate of these weights alone is raised until the loss spikes, so that it is known where it began.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

import foreshock
from foreshock.explain import explain_run
from perturbed import from_perturbed_starts

WIDTH, WORDS, LENGTH = 16, 8, 6


@dataclass(frozen=True)
class Case:
    """Whose rate is raised, from what and when on by how much a step, and what has to be said."""

    raised: tuple[str, ...]
    rate: float
    calm: int
    factor: float
    steps: int
    words: str


QUERIES = Case(("q_proj", "k_proj"), 2e-2, 150, 1.15, 180, "query and key weights, which make the attention ")
ROUTER = Case(("router",), 1e-2, 120, 1.25, 155, "router: ")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.logits = 0.0

    def forward(self, x):
        logits = 2 * self.q_proj(x) @ self.k_proj(x).transpose(1, 2) / WIDTH**0.5
        self.logits = float(logits.detach().abs().max())
        return self.o_proj(logits.softmax(-1) @ self.v_proj(x))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, 4, bias=False)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.logits = 0.0

    def forward(self, x):
        logits = 2 * self.router(x)
        self.logits = float(logits.detach().abs().max())
        made = torch.stack([functional.gelu(expert(x)) for expert in self.experts], dim=-1)
        return (made * logits.softmax(-1).unsqueeze(-2)).sum(-1)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(WORDS, WIDTH), nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.attn, self.moe, self.head = Attention(), Experts(), nn.Linear(WIDTH, WORDS)

    def forward(self, words):
        x = self.embed(words) + self.place
        x = x + self.attn(functional.layer_norm(x, (WIDTH,)))
        return self.head(x + self.moe(functional.layer_norm(x, (WIDTH,))))


def loss_fn(model, batch):
    return WORDS * functional.mse_loss(model(batch[0]), batch[1])


def blow_up(folder, case):
    """Train until the loss has spiked; return the explanations, and how far the logits grew since then."""
    torch.manual_seed(0)
    words = torch.randint(0, WORDS, (16, LENGTH), generator=torch.Generator().manual_seed(1))
    batch = words, functional.one_hot((words + words.roll(2, 1)) % WORDS, WORDS).float()
    model = Network()
    parts = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parts[any(one in name for one in case.raised)].append(parameter)
    optimizer = torch.optim.Adam([{"params": parts[side], "lr": case.rate} for side in (True, False)])
    watched = model.moe if case is ROUTER else model.attn
    logits = 0.0
    with foreshock.Monitor(model, optimizer, loss_fn, run=folder, probe_every=5, full_batch=True) as monitor:
        for step in range(case.steps):
            optimizer.param_groups[0]["lr"] = case.rate * case.factor ** max(step - case.calm, 0)
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.observe(batch, loss)
            optimizer.step()
            logits = watched.logits if step == case.calm else logits
    found = [one for one in explain_run(foreshock.read_run(folder)) if one.onset > case.calm]
    return found, watched.logits / logits


@pytest.mark.parametrize(("case", "other"), [(QUERIES, ROUTER), (ROUTER, QUERIES)])
def test_the_place_is_named(case, other, tmp_path_factory):
    outcomes = from_perturbed_starts(lambda: blow_up(tmp_path_factory.mktemp("run"), case), starts=3)
    outcomes.every(lambda outcome: outcome[1] > 2 and len(outcome[0]) > 0)
    outcomes.every(lambda outcome: outcome[0][0].cause == "learning rate")
    outcomes.at_least(2, lambda outcome: any(place.startswith(case.words) for place in outcome[0][0].where))
    outcomes.every(lambda outcome: not any(place.startswith(other.words) for place in outcome[0][0].where))
