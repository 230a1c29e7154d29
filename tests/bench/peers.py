#!/usr/bin/env python3
"""Times the steps of Flash-GMM and flash-kmeans, on rows like those of `fgmm bench`, on the first GPU.

    peers.py warm FLASH_GMM FLASH_KMEANS               compiles what they choose from, on all cores, into Triton's cache
    peers.py time FLASH_GMM FLASH_KMEANS [CASE...]     prints a JSON line a case; all cases by default

FLASH_GMM is the folder of flash_gmm_h100.py, flash_gmm_diag_h100.py and flash_gmm_full_h100.py; FLASH_KMEANS holds the package
flash_kmeans. Both are called as their own drivers call them, with data resident; times are those of CUDA events, medians. Needs PyTorch.
"""
import json
import os
import subprocess
import sys

import torch

DIM = 128
KERNELS = (("flash_gmm_h100", "_gmm_lse_kernel"), ("flash_gmm_h100", "_gmm_atomic_accum"),
           ("flash_gmm_diag_h100", "_diag_lse_kernel"), ("flash_gmm_diag_h100", "_diag_split_k_accum"))


def mixture(n, k, spread=0.1):
    """Rows about means that lie evenly in a cube of half-width 1."""
    means = torch.rand(k, DIM, device="cuda") * 2 - 1
    rows = torch.empty(n, DIM, device="cuda")
    for part in rows.split(1 << 20):
        part.copy_(means[torch.randint(0, k, (len(part),), device="cuda")] + spread * torch.randn_like(part))
    return rows, means


def equal_weights(k):
    return torch.full((k,), 1 / k, device="cuda").log()


def spherical(n, k=1024, spread=0.1, dtype=torch.float32):
    import flash_gmm_h100

    rows, means = mixture(n, k, spread)
    rows, variances = rows.to(dtype), torch.full((k,), spread**2, device="cuda")
    return lambda: flash_gmm_h100.flash_gmm_estep(rows, means, variances.log(), equal_weights(k))


def large(n):
    """Tuned again among the five configurations that are best for a million rows: all of them take long."""
    import flash_gmm_h100

    spherical(1000000)()
    for kernel in (flash_gmm_h100._gmm_lse_kernel, flash_gmm_h100._gmm_atomic_accum):
        kernel.configs = sorted(kernel.configs_timings, key=kernel.configs_timings.get)[:5]
    return spherical(n)


def diagonal(n, k=1024, spread=0.1):
    import flash_gmm_diag_h100

    rows, means = mixture(n, k, spread)
    variances = torch.full((k, DIM), spread**2, device="cuda")
    return lambda: flash_gmm_diag_h100.flash_gmm_estep_diag(rows, means, variances.log(), equal_weights(k))


def full(n, k=1024, condition=1e4, spread=0.1):
    import flash_gmm_full_h100

    means = torch.rand(k, DIM, device="cuda") * 2 - 1
    deviations = spread * condition ** torch.linspace(-0.25, 0.25, DIM, device="cuda")
    axes = torch.linalg.qr(torch.randn(k, DIM, DIM, device="cuda"))[0]
    rows = torch.randn(k, n // k, DIM, device="cuda") @ (axes * deviations).transpose(1, 2) + means[:, None]
    rows = rows.reshape(-1, DIM)[torch.randperm(n // k * k, device="cuda")]
    rows = torch.cat([rows, rows[: n - len(rows)]])
    precisions = torch.linalg.cholesky(((axes * deviations**-2) @ axes.transpose(1, 2)).double()).float().contiguous()
    return lambda: flash_gmm_full_h100.flash_gmm_estep_full(rows, means, precisions, equal_weights(k))


def kmeans(n, k):
    from flash_kmeans.kmeans_triton_impl import _euclid_iter

    rows, means = (v.half()[None] for v in mixture(n, k))
    squares = torch.cat([(part**2).sum(-1) for part in rows[0].split(1 << 20)])[None]
    return lambda: _euclid_iter(rows, squares, means, True)


# name: (peer, step, repeats)
CASES = {
    "kmeans-1M-1024-f16": ("flash-kmeans", lambda: kmeans(1000000, 1024), 15),
    "kmeans-4M-16384-f16": ("flash-kmeans", lambda: kmeans(4000000, 16384), 9),
    "kmeans-1M-65536-f16": ("flash-kmeans", lambda: kmeans(1000000, 65536), 9),
    "kmeans-10M-1024-f16": ("flash-kmeans", lambda: kmeans(10000000, 1024), 9),
    "spherical-1M-1024-f32": ("Flash-GMM", lambda: spherical(1000000), 15),
    "spherical-1M-1024-bf16": ("Flash-GMM", lambda: spherical(1000000, dtype=torch.bfloat16), 15),
    "spherical-1M-1024-broad": ("Flash-GMM", lambda: spherical(1000000, spread=3.0), 15),
    "spherical-10k-1024-f32": ("Flash-GMM", lambda: spherical(10000), 51),
    "diagonal-1M-1024-f32": ("Flash-GMM", lambda: diagonal(1000000), 15),
    "full-1M-1024-condition-1e4": ("Flash-GMM", lambda: full(1000000), 3),
    "spherical-10M-1024-f32": ("Flash-GMM", lambda: large(10000000), 5),
}


def measure(name):
    peer, make, repeats = CASES[name]
    torch.manual_seed(1)
    step, times = make(), []
    for repeat in range(-2, repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        if repeat >= 0:
            times.append(begin.elapsed_time(end))
    times.sort()
    print(json.dumps({"peer": peer, "case": name, "ms_median": round(times[repeats // 2], 4), "ms_min": round(times[0], 4), "reps": repeats,
                      "device": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)


class Recorder:
    """Stands where a kernel is and keeps what it would have been started with."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def keep(*arguments, **options):
            self.arguments, self.options = arguments, options

        return keep


def compile_share(worker, workers):
    """Every so-many-th configuration; what cannot be compiled or does not fit the device, tuning leaves out, too."""
    recorders = []
    for module, name in KERNELS:
        module = __import__(module)
        recorders.append(Recorder(getattr(module, name)))
        setattr(module, name, recorders[-1])
    spherical(1000000)()
    diagonal(1000000)()
    todo = [(r, c) for r in recorders for c in r.kernel.configs]
    todo.sort(key=lambda t: -t[1].kwargs["BLOCK_N"] * t[1].kwargs["BLOCK_K"])  # the longest first
    for recorder, config in todo[worker::workers]:
        try:
            recorder.kernel.fn.warmup(*recorder.arguments, grid=(1,), **recorder.options, **config.all_kwargs())
        except Exception as error:
            print("left out:", config, type(error).__name__, file=sys.stderr)


def main(command, *arguments):
    sys.path[:0] = arguments[:2]
    if command == "time":
        for name in arguments[2:] or CASES:
            try:
                measure(name)
            except Exception as error:
                print(json.dumps({"peer": CASES[name][0], "case": name, "failed": repr(error)[:200]}), flush=True)
    elif command == "warm" and len(arguments) == 2:
        workers = min(len(os.sched_getaffinity(0)), 16)
        others = [subprocess.Popen([sys.executable, __file__, "warm", *arguments, str(i), str(workers)]) for i in range(workers)]
        return max(other.wait() for other in others)
    elif command == "warm":
        compile_share(int(arguments[2]), int(arguments[3]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
