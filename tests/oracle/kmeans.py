"""The same k-means by scikit-learn in float64.

kmeans.py start DATA K START.h5          rows as centroids, moved a little: integer rows are often as far from one
                                         centroid as from another, and a tie may go either way
kmeans.py check DATA START.h5 MODEL.h5...
"""
import sys
import warnings

import h5py
import numpy as np
from sklearn.cluster import KMeans

from mixture import read_rows, relative


def write_start(x, k, path):
    with h5py.File(path, "w") as f:
        f.attrs.update(format="fgmm-model", version=1, algorithm="kmeans", covariance_type="spherical")
        f["weights"] = np.full(k, 1 / k)
        random = np.random.default_rng(6)
        rows = x[random.choice(len(x), k, replace=False)]
        f["means"] = rows + 1e-3 * x.std() * random.standard_normal(rows.shape)
        f["covariances"] = np.ones(k)


def check(x, start_path, models):
    faults = 0
    with h5py.File(start_path) as start, h5py.File(models[0]) as first, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kmeans = KMeans(len(start["means"]), init=start["means"][:], n_init=1, algorithm="lloyd", tol=0,
                        max_iter=int(first.attrs["n_iter"])).fit(x)
    distances = ((x - kmeans.cluster_centers_[kmeans.labels_]) ** 2).sum(1)
    counts = np.bincount(kmeans.labels_, minlength=kmeans.n_clusters)
    squares = np.bincount(kmeans.labels_, distances, minlength=kmeans.n_clusters)
    for path in models:
        with h5py.File(path) as f:
            errors = {
                "inertia": (abs(f.attrs["inertia"] / kmeans.inertia_ - 1), 1e-6),
                "centroids": (relative(f["means"], kmeans.cluster_centers_), 1e-4),
                "weights": (relative(f["weights"], counts / len(x)), 1e-4),
                "covariances": (relative(f["covariances"], squares / counts / x.shape[1]), 1e-4),
            }
            print(f"{path}: {len(counts)} clusters, inertia {f.attrs['inertia']:.9g}, {f.attrs['n_iter']} iterations;",
                  f"scikit-learn {kmeans.n_iter_}")
        for name, (error, limit) in errors.items():
            print(f"    {name:15} {error:.2e}" + ("" if error <= limit else f"   MORE THAN {limit}"))
            faults += not error <= limit
    return faults == 0


def main(command, *arguments):
    x = read_rows(arguments[0])
    if command == "start":
        write_start(x, int(arguments[1]), arguments[2])
        return 0
    return 0 if check(x, arguments[1], arguments[2:]) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
