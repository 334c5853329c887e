"""Compares what measured effects and rewards say about rows: `python3 pipelines/bench/credit.py out/bench-credit`.

Reads the artifacts of credit.toml with numpy and pyarrow, and prints for each seed:

1. The correlation of the reward of a step with the effect that the rows of its batch predict: the mean of their effects,
   weighted by tokens, times the learning rate of the step. Also with the mean of this number over the last steps, weighted
   as Adam weights gradients, because a step moves along its momentum.
2. How much of the variance of the effects of rows two regressions explain that learned from the same states of the model at
   about the same cost: one from the effects of the batch and of 32 probes (48 rows), the other from the rewards of three
   batches of 16 rows ("branches"), which are compared with each other. The rewards of the branches are the effects of the
   three batches, as (1) predicts them without error: a bound from above. The rows of the last round that no earlier round
   measured are predicted from the other rounds.

Cost of a measurement in passes over a sequence, with V validation examples: effects 3 V + 2 x 48 (a step on the validation
set, and two passes over the rows); three branches 3 x (3 x 16 + V) (a step on each batch, and a pass over the validation set).
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

STEPS = 60
PENALTIES = [10.0 ** (power / 2) for power in range(-4, 9)]


def table(path):
    return {name: np.array(values) for name, values in parquet.read_table(path).to_pydict().items()}


def standardised(numbers):
    centre = np.median(numbers)
    deviation = 1.4826 * np.median(np.abs(numbers - centre))
    limited = np.clip((numbers - centre) / deviation, -10, 10)
    return (limited - limited.mean()) / limited.std()


def rewards_and_effects(folder, tokens):
    """The rewards of the measured steps, what the effects of their batches predict, and the same with momentum."""
    steps, effects = table(folder / "selector/steps.parquet"), table(folder / "selector/effects.parquet")
    place = {key: row for row, key in enumerate(zip(steps["round"], steps["step"]))}
    found = []
    for round_ in np.unique(effects["round"]):
        momentum, before = 0.0, 0
        for step in np.unique(effects["step"][effects["round"] == round_]):
            rows = (effects["round"] == round_) & (effects["step"] == step) & effects["drawn"]
            weight = np.array([tokens[id_] for id_ in effects["id"][rows]])
            batch = (weight * effects["effect"][rows]).sum() / weight.sum()
            decay = 0.9 ** (step - before)
            momentum, before = decay * momentum + (1 - decay) * batch, step
            row = place[round_, step]
            rate = steps["learning_rate"][row]
            found.append((steps["reward"][row], rate * batch, rate * momentum / (1 - 0.9**step)))
    return np.array(found)


def best_ridge(x, y, folds):
    def fit(rows, penalty):
        return np.linalg.solve(x[rows].T @ x[rows] + penalty * np.eye(x.shape[1]), x[rows].T @ y[rows])

    def error(penalty):
        return sum(((y[folds == f] - x[folds == f] @ fit(folds != f, penalty)) ** 2).sum() for f in np.unique(folds))

    return fit(np.ones(len(y), bool), min(PENALTIES, key=error))


def rows_and_branches(folder):
    """The share of the variance of the effects of unseen rows that is explained: from rows, and from branches."""
    effects, clusters = table(folder / "selector/effects.parquet"), table(folder / "clusters/clusters.parquet")
    cluster = np.eye(clusters["cluster"].max() + 1)[clusters["cluster"]]
    features = dict(zip(clusters["id"], np.concatenate([np.stack(clusters["state"]), cluster], 1)))
    last = effects["round"].max()
    seen = set(effects["id"][effects["round"] < last])
    parts = {"rows": [], "branches": [], "test": []}
    for round_ in np.unique(effects["round"]):
        for step in np.unique(effects["step"][effects["round"] == round_]):
            rows = np.flatnonzero((effects["round"] == round_) & (effects["step"] == step))
            y = standardised(effects["weighted_effect"][rows])
            x = np.stack([features[id_] for id_ in effects["id"][rows]])
            x = np.concatenate([x, x * (step / STEPS - 0.5) * 12**0.5], 1)
            fold = effects["id"][rows] % 5
            if round_ == last:
                new = np.array([id_ not in seen for id_ in effects["id"][rows]])
                parts["test"].append(((x - x.mean(0))[new], y[new], fold[new]))
                continue
            parts["rows"].append((x - x.mean(0), y, fold))
            # The batch that was trained on, and two batches of probes.
            groups = [range(start, start + 16) for start in (0, 16, 32)]
            means = np.stack([x[list(group)].mean(0) for group in groups])
            sums = np.array([y[list(group)].mean() for group in groups])
            parts["branches"].append((means - means.mean(0), sums - sums.mean(), np.full(3, step % 5)))
    joined = {name: [np.concatenate(of) for of in zip(*part)] for name, part in parts.items()}
    x, y, _ = joined["test"]
    explained = {}
    for name in ["rows", "branches"]:
        weights = best_ridge(*joined[name])
        explained[name] = np.corrcoef(x @ weights, y)[0, 1] * abs(np.corrcoef(x @ weights, y)[0, 1])
    return explained, {name: len(part[1]) for name, part in joined.items()}


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/bench-credit")
    folders = sorted(folder.parent for folder in out.glob("*/selector"))
    if not folders:
        sys.exit(f"error: there are no artifacts of a selector in {out}\nhint: just build pipelines/bench/credit.toml --only selector")
    for folder in folders:
        features = table(folder / "features/features.parquet")
        tokens = dict(zip(features["id"], features["response_tokens"]))
        found = rewards_and_effects(folder, tokens)
        explained, counts = rows_and_branches(folder)
        print(json.dumps({
            "variant": folder.name,
            "measured_steps": len(found),
            "reward_and_effect": round(np.corrcoef(found[:, 0], found[:, 1])[0, 1], 3),
            "reward_and_effect_with_momentum": round(np.corrcoef(found[:, 0], found[:, 2])[0, 1], 3),
            "mean_reward": round(found[:, 0].mean(), 5),
            "explained_from_rows": round(explained["rows"], 3),
            "explained_from_branches": round(explained["branches"], 3),
            "counts": counts,
        }))


if __name__ == "__main__":
    main()
