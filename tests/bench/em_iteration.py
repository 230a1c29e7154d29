#!/usr/bin/env python3
"""An EM iteration of fgmm's CPU backend beside scikit-learn's, on the same rows from the same start, with the same threads.

    tests/bench/em_iteration.py FGMM [ROWS DIM K [ITERATIONS]]      defaults: 200000 128 1024 3

Prints one JSON line: seconds an iteration of each, and their ratio. Rows and start come from fgmm's own generator.
"""
import json, os, subprocess, sys, tempfile, time, warnings
import h5py
import numpy as np
from sklearn.mixture import GaussianMixture

fgmm = sys.argv[1]
rows, dim, k = (int(v) for v in (sys.argv[2:5] or (200000, 128, 1024)))
iterations = int(sys.argv[5]) if len(sys.argv) > 5 else 3
threads = len(os.sched_getaffinity(0))
warnings.simplefilter("ignore")

with tempfile.TemporaryDirectory() as folder:
    data, start, model = (os.path.join(folder, name) for name in ("x.fbin", "start.h5", "model.h5"))
    subprocess.run([fgmm, "synth", f"synth:n={rows},d={dim},k={k},dtype=f32", data, "-q"], check=True)
    subprocess.run([fgmm, "fit", data, "-k", str(k), "--init", "random", "--max-iter", "0", "--backend", "cpu", "-q", "-o", start], check=True)
    fit = [fgmm, "fit", data, "-k", str(k), "--init", start, "--tol", "0", "--max-iter", str(iterations), "--backend", "cpu",
           "--threads", str(threads), "-q", "-o", model]
    subprocess.run(fit, check=True)
    with h5py.File(model) as f:
        ours = np.median(f["history/seconds"][:])
        our_log = f["history/log_likelihood"][-1]
    x = np.fromfile(data, np.float32, offset=8).reshape(rows, dim)
    with h5py.File(start) as f:
        mixture = GaussianMixture(k, covariance_type="spherical", tol=0, max_iter=iterations, weights_init=f["weights"][:],
                                  means_init=f["means"][:], precisions_init=1 / f["covariances"][:])
    mixture.weights_, mixture.means_ = mixture.weights_init, mixture.means_init
    mixture.precisions_cholesky_ = np.sqrt(mixture.precisions_init)
    times = []
    for _ in range(iterations):
        begin = time.perf_counter()
        log, resp = mixture._e_step(x)
        mixture._m_step(x, resp)
        times.append(time.perf_counter() - begin)
    theirs = np.median(times)

print(json.dumps({"bench": "em_iteration", "rows": rows, "dim": dim, "k": k, "threads": threads, "fgmm_seconds": round(ours, 4),
                  "sklearn_seconds": round(theirs, 4), "ratio": round(theirs / ours, 2), "fgmm_log_likelihood": our_log,
                  "sklearn_log_likelihood": float(log)}))
