"""Reference numbers for src/selector/{ppo,adam,sampling}.rs, from the formulas that CleanRL's ppo.py uses.

    python tests/python/golden_ppo.py > tests/golden/ppo.json      (numpy and torch, float64)
"""

import itertools
import json
import math

import numpy as np
import torch

rng = np.random.default_rng(7)
T, GAMMA, LAMBDA, EPSILON = 9, 0.97, 0.9, 0.2

# Generalised advantage estimation; the step after the last is terminal.
rewards, values = rng.normal(size=T), rng.normal(size=T)
advantages, last = np.zeros(T), 0.0
for t in reversed(range(T)):
    next_non_terminal = 0.0 if t == T - 1 else 1.0
    next_value = 0.0 if t == T - 1 else values[t + 1]
    delta = rewards[t] + GAMMA * next_value * next_non_terminal - values[t]
    advantages[t] = last = delta + GAMMA * LAMBDA * next_non_terminal * last
returns = advantages + values

# Losses and statistics of one minibatch.
logratio = torch.tensor(rng.normal(scale=0.25, size=T))
mb_advantages = torch.tensor(advantages)
normalised = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
ratio = logratio.exp()
pg_loss1 = -normalised * ratio
pg_loss2 = -normalised * torch.clamp(ratio, 1 - EPSILON, 1 + EPSILON)
pg_loss = torch.max(pg_loss1, pg_loss2).mean()
approx_kl = ((ratio - 1) - logratio).mean()
clipfrac = ((ratio - 1.0).abs() > EPSILON).double().mean()
newvalue = torch.tensor(values + rng.normal(scale=0.3, size=T))
v_loss = 0.5 * ((newvalue - torch.tensor(returns)) ** 2).mean()
explained_variance = 1 - np.var(returns - values) / np.var(returns)

# Several draws a step: the three ways to join their ratios.
draws = rng.normal(scale=0.1, size=(4, 3))
draw_advantages = rng.normal(size=(4, 3))


def surrogate(ratio, advantage):
    return max(-advantage * ratio, -advantage * min(max(ratio, 1 - EPSILON), 1 + EPSILON))


reduced = {
    "mean": [surrogate(math.exp(d.mean()), a.mean()) for d, a in zip(draws, draw_advantages)],
    "product": [surrogate(math.exp(d.sum()), a.mean()) for d, a in zip(draws, draw_advantages)],
    "item": [np.mean([surrogate(math.exp(x), y) for x, y in zip(d, a)]) for d, a in zip(draws, draw_advantages)],
}

# The optimizer: AdamW with eps 1e-5, gradients clipped by norm 0.5.
start = rng.normal(size=5)
gradients = rng.normal(size=(4, 5)) * np.array([[0.01], [1.0], [3.0], [0.1]])
weights = torch.nn.Parameter(torch.tensor(start))
optimizer = torch.optim.AdamW([weights], lr=0.05, eps=1e-5, weight_decay=0.01)
for gradient in gradients:
    weights.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_([weights], 0.5)
    optimizer.step()

# Plackett-Luce: the probability of every ordered draw of 2 out of 4.
logits = rng.normal(size=4)
p = np.exp(logits) / np.exp(logits).sum()
pairs = [[i, j] for i, j in itertools.permutations(range(4), 2)]
log_probs = [[math.log(p[i]), math.log(p[j] / (1 - p[i]))] for i, j in pairs]


def plain(value):
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().tolist()
    return np.asarray(value).tolist()


print(json.dumps(plain({
    "gamma": GAMMA, "lambda": LAMBDA, "epsilon": EPSILON,
    "rewards": rewards, "values": values, "advantages": advantages, "returns": returns,
    "normalised": normalised, "logratio": logratio, "pg_loss": pg_loss, "approx_kl": approx_kl, "clipfrac": clipfrac,
    "newvalue": newvalue, "v_loss": v_loss, "explained_variance": explained_variance,
    "draws": draws, "draw_advantages": draw_advantages, "reduced": reduced,
    "adam": {"start": start, "gradients": gradients, "end": weights},
    "plackett_luce": {"logits": logits, "pairs": pairs, "log_probs": log_probs},
}), indent=1))
