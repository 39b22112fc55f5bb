"""PPO: some epochs of minibatches on fixed rollouts; three added lines.

Run it with ``python examples/ppo.py``; it takes about ten seconds. The agent learns to name the largest of
four numbers. A minibatch holds all that the loss needs: observations, actions, old log-probabilities,
advantages. New rollouts change the data; the monitor sees mini-batches that differ.
"""

import torch
from torch.distributions import Categorical

import foreshock

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only slow down a network as small as this one
policy = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)


def rollout(size=256):
    """Return observations, actions, their log-probabilities and advantages: fixed while they are used."""
    seen = torch.randn(size, 4)
    with torch.no_grad():
        choice = Categorical(logits=policy(seen))
        action = choice.sample()
    reward = (action == seen.argmax(1)).float()
    return seen, action, choice.log_prob(action), reward - reward.mean()


def loss_fn(policy, batch):
    """Return the clipped surrogate with an entropy bonus, as the mean over a minibatch."""
    seen, action, before, advantage = batch
    choice = Categorical(logits=policy(seen))
    ratio = (choice.log_prob(action) - before).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return -surrogate.mean() - 0.01 * choice.entropy().mean()


monitor = foreshock.Monitor(policy, optimizer, loss_fn, run="runs/ppo", full_batch=False)
for _ in range(15):
    data = rollout()
    for _ in range(4):
        for rows in torch.randperm(256).split(64):
            batch = tuple(part[rows] for part in data)
            optimizer.zero_grad()
            loss = loss_fn(policy, batch)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            forecast = monitor.observe(batch, loss, gradient_norm=norm, max_norm=0.5)
            optimizer.step()
    print(f"loss {loss:.3f}, gradient norm {norm:.2f}")
print(forecast)
print("Now make a page of it: foreshock report runs/ppo")
