"""What measured effects and rewards say about rows: `python3 pipelines/bench/credit.py out/bench-credit`.

Reads the artifacts of credit.toml with numpy and pyarrow, and prints for each seed:

1. `reward_and_effect`: the correlation of the reward of a step with the effect that the rows of its batch predict: the mean of
   their effects, weighted by tokens, times the learning rate of the step. From both, the mean of the same step over the
   rounds is subtracted, because rewards fall over a training. `next_five`: the same for the sum of the reward and the four
   rewards after it.
2. How much of the variance of the effects of rows two regressions explain that learned from the same states of the model at
   about the same cost. `from_rows` learned from the effects of single rows, as raisin does (the batch and 32 probes).
   `from_branches` learned from the rewards of three batches ("branches") that start at the same state and are compared with each
   other. Branches are simulated: the reward of a branch is the mean effect of its rows, without noise, so the share is a bound
   from above. Each fifth of the rows is predicted from the others, and the branches have no rows of this fifth.

Cost of a measurement in passes over a sequence, with V validation examples and batches of 16: effects 3 V + 2 x 48 (a step on
the validation set, and two passes over the rows); three branches 3 x (3 x 16 + V) (a step on each batch, and a pass over the
validation set).
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

STEPS = 60
PENALTIES = [10.0 ** (power / 2) for power in range(-2, 13)]


def table(path):
    return {name: np.array(values) for name, values in parquet.read_table(path).to_pydict().items()}


def standardised(numbers):
    centre = np.median(numbers)
    deviation = 1.4826 * np.median(np.abs(numbers - centre))
    limited = np.clip((numbers - centre) / deviation, -10, 10)
    return (limited - limited.mean()) / limited.std()


def rewards_and_effects(folder, tokens):
    """The reward of each step, the sum of it and the four after it, and what the effects of its batch predict."""
    steps, effects = table(folder / "selector/steps.parquet"), table(folder / "selector/effects.parquet")
    rewards, predicted = np.zeros((effects["round"].max() + 1, STEPS)), np.zeros((effects["round"].max() + 1, STEPS))
    for round_, step, reward, rate in zip(steps["round"], steps["step"], steps["reward"], steps["learning_rate"]):
        rewards[round_, step - 1] = reward
        predicted[round_, step - 1] = rate
    for round_, step in np.ndindex(*rewards.shape):
        rows = (effects["round"] == round_) & (effects["step"] == step + 1) & effects["drawn"]
        weight = np.array([tokens[id_] for id_ in effects["id"][rows]])
        predicted[round_, step] *= (weight * effects["effect"][rows]).sum() / weight.sum()
    five = np.stack([rewards[:, step : step + 5].sum(1) for step in range(STEPS - 4)], 1)
    apart = [table_ - table_.mean(0) for table_ in (rewards, five, predicted, predicted[:, : STEPS - 4])]
    correlation = lambda one, other: np.corrcoef(one.ravel(), other.ravel())[0, 1]
    return correlation(apart[0], apart[2]), correlation(apart[1], apart[3])


def explained(trained, tested):
    """The share of the variance of the tested effects that ridge regressions explain, with the best of all penalties."""
    total = sum((y**2).sum() for _, y in tested)
    shares = []
    for penalty in PENALTIES:
        error = 0.0
        for (x, y), (x_new, y_new) in zip(trained, tested):
            weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
            error += ((y_new - x_new @ weights) ** 2).sum()
        shares.append(1 - error / total)
    return max(shares)


def rows_and_branches(folder):
    """The share of the variance of the effects of unseen rows that is explained: from rows, and from branches."""
    effects, clusters = table(folder / "selector/effects.parquet"), table(folder / "clusters/clusters.parquet")
    cluster = np.eye(clusters["cluster"].max() + 1)[clusters["cluster"]]
    features = dict(zip(clusters["id"], np.concatenate([np.stack(clusters["state"]), cluster], 1)))
    folds = [{"rows": [], "branches": [], "tested": []} for _ in range(5)]
    for round_ in np.unique(effects["round"]):
        for step in np.unique(effects["step"][effects["round"] == round_]):
            rows = np.flatnonzero((effects["round"] == round_) & (effects["step"] == step))
            y = standardised(effects["weighted_effect"][rows])
            x = np.stack([features[id_] for id_ in effects["id"][rows]])
            x = np.concatenate([x, x * (step / STEPS - 0.5) * 12**0.5], 1)
            x = x - x.mean(0)
            for number, fold in enumerate(folds):
                left_out = effects["id"][rows] % 5 == number
                kept_x, kept_y = x[~left_out], y[~left_out]
                fold["tested"].append((x[left_out], y[left_out]))
                fold["rows"].append((kept_x, kept_y))
                groups = np.array_split(np.arange(len(kept_y)), 3)
                means = np.stack([kept_x[group].mean(0) for group in groups])
                rewards = np.array([kept_y[group].mean() for group in groups])
                fold["branches"].append((means - means.mean(0), rewards - rewards.mean()))
    joined = {
        name: [tuple(np.concatenate(of) for of in zip(*fold[name])) for fold in folds] for name in ("rows", "branches", "tested")
    }
    return explained(joined["rows"], joined["tested"]), explained(joined["branches"], joined["tested"])


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/bench-credit")
    folders = sorted(folder.parent for folder in out.glob("*/selector"))
    if not folders:
        sys.exit(f"error: there are no artifacts of a selector in {out}\nhint: just build pipelines/bench/credit.toml --only selector")
    seen = set()
    for folder in folders:
        seed = folder.name.split("seed=")[-1]
        if seed in seen:  # the variants of other axes share the selector
            continue
        seen.add(seed)
        features = table(folder / "features/features.parquet")
        tokens = dict(zip(features["id"], features["response_tokens"]))
        numbers = [*rewards_and_effects(folder, tokens), *rows_and_branches(folder)]
        names = ["reward_and_effect", "next_five", "from_rows", "from_branches"]
        print(json.dumps({"seed": seed} | {name: round(float(number), 3) for name, number in zip(names, numbers)}))


if __name__ == "__main__":
    main()
