"""Times the selector on many candidates, and k-means beside scikit-learn on the same rows.

`just bench selector [ROWS ...]` (25,000 300,000 1,000,000): what choosing a batch costs beside the training of a step, with
36 random columns for each candidate, in the default form of the policy. Then k-means on 1,000,000 rows of 32 columns with
4 starts, beside MiniBatchKMeans and KMeans of scikit-learn. The two take turns in the same minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy

EXECUTABLE = Path(sys.argv[1]).resolve().parent / "bench-selector"
ROWS = [int(text.replace(",", "")) for text in sys.argv[2:]] or [25_000, 300_000, 1_000_000]
CLUSTERED = 1_000_000
WIDTH = 32


def ask(*arguments):
    return json.loads(subprocess.run([EXECUTABLE, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout)


def make_rows(path):
    """Soft groups with falling variances, as the principal components of embeddings have them."""
    random = numpy.random.default_rng(0)
    centres = random.normal(size=(40, WIDTH)) * numpy.linspace(2, 0.3, WIDTH)
    group = random.integers(0, 40, CLUSTERED)
    rows = centres[group] * 0.6 + random.normal(size=(CLUSTERED, WIDTH)) * numpy.linspace(1.5, 0.3, WIDTH)
    rows.astype("<f4").tofile(path)
    return numpy.fromfile(path, "<f4").reshape(-1, WIDTH)


def main():
    print("candidates   before the first step   choosing a batch of 8 (median of 20)   memory of the process")
    for rows in ROWS:
        found = ask("select", str(rows))
        print(f"{rows:10,} {found['open']:20.2f} s {1000 * found['step']:33.1f} ms {found['memory_mb']:25.0f} MB", flush=True)
    # Some machines set these for old versions of OpenBLAS; they slow a new one.
    os.environ.pop("OPENBLAS_CORETYPE", None)
    os.environ.pop("OPENBLAS_L2_SIZE", None)
    from sklearn.cluster import KMeans, MiniBatchKMeans

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows")
        rows = make_rows(path)
        print(f"k-means, {CLUSTERED:,} rows of {WIDTH} columns, 4 starts; scikit-learn {version('scikit-learn')}")
        for clusters in [4, 40]:
            found = ask("kmeans", path, str(WIDTH), str(clusters))
            print(f"  {clusters:3} clusters, raisin          {found['seconds']:7.2f} s   inertia {found['inertia']:,.0f}", flush=True)
            for kind in [MiniBatchKMeans, KMeans]:
                start = time.perf_counter()
                peer = kind(clusters, n_init=4, random_state=0, max_iter=100).fit(rows)
                took = time.perf_counter() - start
                ratio = f"raisin's time / its: {found['seconds'] / took:.2f}"
                print(f"  {clusters:3} clusters, {kind.__name__:15} {took:7.2f} s   inertia {peer.inertia_:,.0f}   {ratio}", flush=True)


if __name__ == "__main__":
    main()
