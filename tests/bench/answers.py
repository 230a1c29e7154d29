#!/usr/bin/env python3
"""How far one E-step is from float64, in responsibilities, log-likelihood and statistics.

answers.py draw ROWS.fbin MODEL.h5 N D K TYPE SPREAD [CONDITION]    rows of a known mixture, and that mixture
answers.py check FGMM ROWS MODEL.h5 [BACKEND [FOLDER]]              one line for fgmm; FOLDER, where Flash-GMM's flash_gmm_*h100.py
                                                                    lie, adds one for its kernels (needs PyTorch and Triton)

TYPE: spherical, diag or full. Measures, all against NumPy's float64 on the same rows and parameters:
    r      largest absolute error of a responsibility
    log    relative error of the mean log-likelihood
    n s q  error of sum r, sum r x and the second moments, over the sum of absolute contributions (Frobenius)
Second moments are taken as each program keeps them: about the means, but Flash-GMM's full ones about zero.
"""
import json
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np

LOG2E, LOG_2PI = 1.4426950408889634, 1.8378770664093453
TOP = 64  # responsibilities a row that `fgmm assign` tells
REG_COVAR = 1e-6  # added to variances by `fgmm fit`; without, a component of equal rows would be repaired


def read_rows(path):
    dtype = {"fbin": np.float32, "f16bin": np.float16, "u8bin": np.uint8, "i8bin": np.int8}[path.rsplit(".", 1)[1]]
    n, dim = np.fromfile(path, np.uint32, 2)
    return np.fromfile(path, dtype, offset=8).reshape(n, dim).astype(np.float64)


def draw(rows, model, n, dim, k, kind, spread, condition=1.0):
    """Means even in a cube of half-width 1; weights that differ; deviations of `spread`, times factors whose squares span `condition`."""
    rng = np.random.default_rng(3)
    means = rng.uniform(-1, 1, (k, dim))
    weights = rng.uniform(0.5, 1.5, k)
    weights /= weights.sum()
    component = rng.choice(k, n, p=weights)
    deviations = spread * condition ** rng.uniform(-0.25, 0.25, (k, dim))
    x = rng.standard_normal((n, dim))
    if kind == "spherical":
        deviations[:] = deviations[:, :1]
    x *= deviations[component]
    covariances = deviations[:, 0] ** 2 if kind == "spherical" else deviations**2
    if kind == "full":
        axes = np.linalg.qr(rng.standard_normal((k, dim, dim)))[0]
        for j in range(k):
            x[component == j] = x[component == j] @ axes[j].T
        covariances = (axes * (deviations**2)[:, None, :]) @ axes.transpose(0, 2, 1)
    with open(rows, "wb") as f:
        np.array([n, dim], np.uint32).tofile(f)
        (x + means[component]).astype(np.float32).tofile(f)
    with h5py.File(model, "w") as f:
        f.attrs.update(format="fgmm-model", version=1, algorithm="gmm", covariance_type=kind)
        f.update(weights=weights, means=means, covariances=covariances)


def factors(kind, covariances):
    """Lower triangles L with L L' the precision; for the other types reciprocal deviations."""
    if kind == "full":
        return np.linalg.cholesky(np.linalg.inv(covariances))
    return 1 / np.sqrt(covariances)


def log_densities(x, m):
    """[n, k], nats, in float64; about the rows' mean, so that little is lost in the expanded form."""
    kind, dim = m["kind"], x.shape[1]
    origin = x.mean(0)
    x, means, f = x - origin, m["means"] - origin, factors(m["kind"], m["covariances"])
    if kind == "full":
        distance = np.stack([(((x - means[j]) @ f[j]) ** 2).sum(1) for j in range(len(means))], 1)
        log_det = np.log(np.diagonal(f, axis1=1, axis2=2)).sum(1)
    else:
        w = np.broadcast_to((f**2).reshape(len(means), -1), means.shape)
        distance = (x**2) @ w.T - 2 * x @ (means * w).T + (means**2 * w).sum(1)
        log_det = 0.5 * np.log(w).sum(1)
    return np.log(m["weights"]) + log_det - 0.5 * (dim * LOG_2PI + distance)


def moments(x, r, m, about_zero=False):
    """Second moments and, for elements that may cancel, the sum of their absolute contributions."""
    kind, means = m["kind"], m["means"]
    if kind == "full":
        centres = np.zeros_like(means) if about_zero else means
        q, size = np.zeros_like(m["covariances"]), np.zeros_like(m["covariances"])
        for j in range(len(means)):
            keep = r[:, j] > 1e-18
            d, w = x[keep] - centres[j], r[keep, j, None]
            q[j], size[j] = (w * d).T @ d, (w * np.abs(d)).T @ np.abs(d)
        return q, size
    origin = x.mean(0)  # the expanded form loses little about it
    x, means = x - origin, means - origin
    q = r.T @ x**2 - 2 * means * (r.T @ x) + means**2 * r.sum(0)[:, None]
    q = q.sum(1) if kind == "spherical" else q
    return q, q


def reference(x, m):
    l = log_densities(x, m)
    best = l.max(1, keepdims=True)
    log = best[:, 0] + np.log(np.exp(l - best).sum(1))
    r = np.exp(l - log[:, None])
    entropy = -(r * np.log(np.maximum(r, 1e-300))).sum(1)
    return {"r": r, "log": log, "n": r.sum(0), "s": r.T @ x, "s size": r.T @ np.abs(x), "effective": np.exp(entropy).mean(),
            "kept": (r > 2.0**-24).sum(1).mean()}


def error(got, expected, size):
    return np.linalg.norm(got - expected) / np.linalg.norm(size)


def of_fgmm(program, rows, model, backend, x, m, exact):
    """`assign` for responsibilities; one iteration of `fit`, whose parameters give back the sums."""
    with tempfile.TemporaryDirectory() as folder:
        assigned, fitted = os.path.join(folder, "assigned.h5"), os.path.join(folder, "fitted.h5")
        common = [rows, "--backend", backend, "-q"]
        subprocess.run([program, "assign", *common, model, "--top", str(TOP), "-o", assigned], check=True, stdout=subprocess.DEVNULL)
        fit = subprocess.run([program, "fit", *common, "--init", model, "-k", str(len(m["means"])), "--covariance", m["kind"], "--max-iter", "1",
                              "--tol", "0", "--reg-covar", str(REG_COVAR), "-o", fitted], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if fit.stderr:  # a component that was repaired no longer tells its sums
            print(fit.stderr.strip(), file=sys.stderr)
        with h5py.File(assigned) as f:
            labels, responsibilities = f["labels"][:], f["responsibilities"][:]
        with h5py.File(fitted) as f:
            log, weights, means, covariances = f["history/log_likelihood"][0], f["weights"][:], f["means"][:], f["covariances"][:]
    n = weights * len(x)
    step = means - m["means"]
    listed = labels >= 0
    at = np.nonzero(listed)[0], labels[listed]
    unlisted = exact["r"].copy()
    unlisted[at] = 0
    # What is not listed is less likely than all that is, or was left out as nothing.
    beyond = np.maximum(unlisted.max(1) - np.where(listed.all(1), responsibilities.min(1), 0), 0).max()
    if m["kind"] == "full":
        q = n[:, None, None] * (covariances - REG_COVAR * np.eye(x.shape[1]) + step[:, :, None] * step[:, None, :])
    elif m["kind"] == "diag":
        q = n[:, None] * (covariances - REG_COVAR + step**2)
    else:
        q = n * ((covariances - REG_COVAR) * x.shape[1] + (step**2).sum(1))
    return {"r": max(np.abs(responsibilities[listed] - exact["r"][at]).max(), beyond), "log": log, "n": n, "s": n[:, None] * means, "q": q}


def of_flash_gmm(folder, x, m, exact):
    """Its responsibilities are the weights of E-steps of a single row."""
    sys.path.insert(0, folder)
    import torch

    kind = m["kind"]
    name = {"spherical": ("flash_gmm_h100", "flash_gmm_estep"), "diag": ("flash_gmm_diag_h100", "flash_gmm_estep_diag"),
            "full": ("flash_gmm_full_h100", "flash_gmm_estep_full")}[kind]
    module = __import__(name[0])
    for value in vars(module).values():  # one tile shape: answers do not depend on it, and nothing is timed here
        if hasattr(value, "configs"):
            value.configs = [c for c in value.configs if c.kwargs["BLOCK_N"] == 64 and c.kwargs["BLOCK_K"] == 64 and c.num_warps == 4][:1]
    shape = torch.tensor(factors(kind, m["covariances"]) if kind == "full" else np.log(m["covariances"]), dtype=torch.float32, device="cuda")
    means, log_weights = (torch.tensor(v, dtype=torch.float32, device="cuda") for v in (m["means"], np.log(m["weights"])))
    rows = torch.tensor(x, dtype=torch.float32, device="cuda")

    def step(some):
        return [v.double().cpu().numpy() for v in getattr(module, name[1])(some.contiguous(), means, shape, log_weights)]

    log, n, s, q = step(rows)
    sample = np.linspace(0, len(x) - 1, 200).astype(int)
    r = max(np.abs(step(rows[i : i + 1])[1] - exact["r"][i]).max() for i in sample)
    return {"r": r, "log": log.mean(), "n": n, "s": s, "q": q}


def check(program, rows, model, backend="auto", folder=None):
    x = read_rows(rows)
    with h5py.File(model) as f:
        kind = f.attrs["covariance_type"]
        m = {"kind": kind.decode() if isinstance(kind, bytes) else kind, **{v: f[v][:] for v in ("weights", "means", "covariances")}}
    exact = reference(x, m)
    line = {"data": os.path.basename(rows), "rows": len(x), "dim": x.shape[1], "k": len(m["means"]), "covariance": m["kind"],
            "effective": round(exact["effective"], 2), "above 2^-24": round(exact["kept"], 1)}
    for who in ("fgmm", "flash-gmm"):
        if who == "flash-gmm" and folder is None:
            break
        got = of_fgmm(program, rows, model, backend, x, m, exact) if who == "fgmm" else of_flash_gmm(folder, x, m, exact)
        q, size = moments(x, exact["r"], m, who == "flash-gmm")
        log = exact["log"].mean()
        errors = {"r": got["r"], "log": abs(got["log"] - log) / abs(log), "n": error(got["n"], exact["n"], exact["n"]),
                  "s": error(got["s"], exact["s"], exact["s size"]), "q": error(got["q"], q, size)}
        print(json.dumps({**line, "who": who, **{name: float(f"{value:.3g}") for name, value in errors.items()}}), flush=True)


def main(command, *a):
    if command == "draw":
        draw(a[0], a[1], int(a[2]), int(a[3]), int(a[4]), a[5], *(float(v) for v in a[6:]))
    else:
        check(*a)


if __name__ == "__main__":
    main(*sys.argv[1:])
