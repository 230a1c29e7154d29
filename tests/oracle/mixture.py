"""The same mixture fitted by scikit-learn in float64.

mixture.py start DATA K TYPE START.h5        writes a start: rows as means, uneven weights, covariances that differ
mixture.py check DATA START.h5 MODEL.h5...   fits from it for as many iterations as the models say, and compares
"""
import sys
import time
import warnings

import h5py
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def read_rows(path):
    dtype = {"fbin": np.float32, "u8bin": np.uint8}[path.rsplit(".", 1)[1]]
    rows, dim = np.fromfile(path, np.uint32, 2)
    return np.fromfile(path, dtype, offset=8).reshape(rows, dim).astype(np.float64)


def write_start(x, k, kind, path):
    rng = np.random.default_rng(5)
    dim = x.shape[1]
    weights = rng.uniform(0.5, 1.5, k)
    whole = np.cov(x.T) * 0.5 + np.diag(x.var(0)) * 0.5
    scales = rng.uniform(0.5, 1.0, k)
    covariances = {
        "spherical": scales * x.var(0).mean(),
        "diag": scales[:, None] * x.var(0) * rng.uniform(0.8, 1.2, (k, dim)),
        "tied": whole,
        "full": scales[:, None, None] * whole,
    }[kind]
    with h5py.File(path, "w") as f:
        f.attrs.update(format="fgmm-model", version=1, algorithm="gmm", covariance_type=kind)
        f["weights"] = weights / weights.sum()
        f["means"] = x[rng.choice(len(x), k, replace=False)]
        f["covariances"] = covariances


class Recorder(GaussianMixture):
    """Keeps the lower bound of every iteration; scikit-learn keeps the last."""

    def _compute_lower_bound(self, log_resp, log_prob_norm):
        self.bounds = [*getattr(self, "bounds", []), log_prob_norm]
        return log_prob_norm


def fit(x, start, n_iter):
    kind = text(start.attrs["covariance_type"])
    covariances = start["covariances"][:]
    precisions = 1 / covariances if kind in ("spherical", "diag") else np.linalg.inv(covariances)
    mixture = Recorder(
        len(start["weights"]), covariance_type=kind, tol=0, reg_covar=1e-6, max_iter=n_iter, init_params="random_from_data",
        weights_init=start["weights"][:], means_init=start["means"][:], precisions_init=precisions, random_state=0)
    begin = time.time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(x)
    return mixture, time.time() - begin


def relative(got, expected):
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, (got.shape, expected.shape)
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def check(x, start_path, models):
    faults = 0
    with h5py.File(start_path) as start, h5py.File(models[0]) as first:
        mixture, seconds = fit(x, start, int(first.attrs["n_iter"]))
    for path in models:
        with h5py.File(path) as f:
            history = f["history/log_likelihood"][:]
            errors = {
                "log_likelihood": (relative(f.attrs["log_likelihood"], mixture.score(x)), 1e-6),
                "history": (np.abs(history / np.array(mixture.bounds) - 1).max(), 1e-6),
                "bic": (relative(f.attrs["bic"], mixture.bic(x)), 1e-6),
                "aic": (relative(f.attrs["aic"], mixture.aic(x)), 1e-6),
                "weights": (relative(f["weights"], mixture.weights_), 1e-4),
                "means": (relative(f["means"], mixture.means_), 1e-4),
                "covariances": (relative(f["covariances"], mixture.covariances_), 1e-4),
            }
            # The offset of the data must not hide an error of the means among themselves.
            centre = x.mean(0)
            errors["centred means"] = (relative(f["means"] - centre, mixture.means_ - centre), 1e-4)
            print(f"{path}: K={len(f['weights'])} {text(f.attrs['covariance_type'])},",
                  f"log-likelihood {f.attrs['log_likelihood']:.9f},",
                  f"{f['history/seconds'][:].sum():.2f} s; scikit-learn {seconds:.2f} s")
        for name, (error, limit) in errors.items():
            print(f"    {name:15} {error:.2e}" + ("" if error <= limit else f"   MORE THAN {limit}"))
            faults += not error <= limit
    return faults == 0


def main(command, *arguments):
    x = read_rows(arguments[0])
    if command == "start":
        write_start(x, int(arguments[1]), arguments[2], arguments[3])
        return 0
    return 0 if check(x, arguments[1], arguments[2:]) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
