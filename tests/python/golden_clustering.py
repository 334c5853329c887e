"""Reference numbers for src/selector/clustering, from scikit-learn.

    python tests/python/golden_clustering.py > tests/golden/clustering.json      (numpy and scikit-learn)
"""

import json

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

rng = np.random.default_rng(11)
centres = rng.normal(scale=1.5, size=(4, 6))
# Rounded to f32, which is what the Rust side reads.
rows = np.float32(centres[rng.integers(4, size=80)] + rng.normal(scale=[1.5, 1.2, 0.9, 0.6, 0.4, 0.2], size=(80, 6)))
rows = rows.astype(np.float64)

pca = PCA(n_components=3, svd_solver="full").fit(rows)
# Every component's largest entry is positive.
signs = np.sign(pca.components_[np.arange(3), np.abs(pca.components_).argmax(axis=1)])
projected = pca.transform(rows) * signs
whitened = projected / np.sqrt(pca.explained_variance_)

start = rows[:4]
kmeans = KMeans(n_clusters=4, init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(rows)

print(json.dumps({
    "rows": rows.tolist(),
    "components": (pca.components_ * signs[:, None]).tolist(),
    "variances": pca.explained_variance_.tolist(),
    "explained": float(pca.explained_variance_ratio_.sum()),
    "projected": projected[:5].tolist(), "whitened": whitened[:5].tolist(),
    "start": start.tolist(), "centres": kmeans.cluster_centers_.tolist(),
    "labels": kmeans.labels_.tolist(), "inertia": float(kmeans.inertia_),
}))
