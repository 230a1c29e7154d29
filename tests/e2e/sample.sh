#!/usr/bin/env bash
# Rows drawn from a model: the same bytes on any number of ranks and threads, a longer sample begins with a shorter one, and weights, means
# and covariances are the model's, for every kind of model.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"

"$FGMM" synth n=3k,d=5,k=3,seed=4,weights=zipf rows.fbin -q
for shape in spherical diag tied full; do
    "$FGMM" fit rows.fbin -k 3 --covariance $shape --max-iter 8 -o $shape.h5 -q
    "$FGMM" sample $shape.h5 -n 100k --seed 7 -o $shape.fbin -q
done
"$FGMM" fit rows.fbin -k 3 --algorithm kmeans -o kmeans.h5 -q
"$FGMM" sample kmeans.h5 -n 100k --seed 7 -o kmeans.fbin -q

on 3 sample full.h5 -n 100k --seed 7 -o other.fbin --threads 3 -q
cmp full.fbin other.fbin || fail "samples differ on 3 ranks"
"$FGMM" sample full.h5 -n 1k --seed 7 -o short.fbin -q
cmp <(tail -c +9 short.fbin) <(tail -c +9 full.fbin | head -c 20000) || fail "a longer sample does not begin with a shorter one"
"$FGMM" sample full.h5 -n 1k --seed 8 -o other.fbin -q
! cmp -s short.fbin other.fbin || fail "the seed has no effect"
"$FGMM" sample full.h5 -n 1k --seed 7 -o half.h5 --dtype f16 -q
"$FGMM" convert short.fbin converted.f16bin -q
"$FGMM" convert half.h5 other.f16bin -q
cmp converted.f16bin other.f16bin || fail "16-bit floats are not the rounded sample"
status "$FGMM" sample full.h5 -n 1k -o clipped.u8bin
[ $got = 0 ] && grep -q 'outside of u8 and were clipped' err || fail "no word of clipped values: $(cat err)"

if have_python numpy,h5py; then
    "$python" - <<'PYTHON' || fail "a sample is not of its model"
import h5py, numpy as np
for name in 'spherical', 'diag', 'tied', 'full', 'kmeans':
    with h5py.File(name + '.h5') as f:
        w, m, c = f['weights'][:], f['means'][:], f['covariances'][:]
    k, d = m.shape
    c = {'spherical': lambda: c[:, None, None] * np.eye(d), 'kmeans': lambda: c[:, None, None] * np.eye(d),
         'diag': lambda: c[:, :, None] * np.eye(d), 'tied': lambda: np.broadcast_to(c, (k, d, d)), 'full': lambda: c}[name]()
    x = np.fromfile(name + '.fbin', '<f4', offset=8).reshape(-1, d).astype('f8')
    n = len(x)
    assert n == 100000
    # Moments of the whole, within five standard errors.
    mean = w @ m
    whole = np.einsum('k,kij->ij', w, c) + np.einsum('k,ki,kj->ij', w, m - mean, m - mean)
    assert (np.abs(x.mean(0) - mean) < 5 * np.sqrt(np.diag(whole) / n)).all(), name
    assert np.allclose(np.cov(x.T), whole, atol=5 * np.diag(whole).max() * np.sqrt(2 / n)), name
    # And of the parts: the rows whose component is beyond doubt are whitened to a standard normal.
    logs = []
    for i in range(k):
        white = np.linalg.solve(np.linalg.cholesky(c[i]), (x - m[i]).T)
        logs.append(np.log(w[i]) - 0.5 * (white ** 2).sum(0) - 0.5 * np.linalg.slogdet(c[i])[1])
    p = np.exp(logs - np.max(logs, 0))
    p /= p.sum(0)
    assert np.allclose(p.mean(1), w, atol=5 * 0.5 / np.sqrt(n)), (name, p.mean(1), w)
    for i in range(k):
        white = np.linalg.solve(np.linalg.cholesky(c[i]), (x - m[i]).T)
        share = p[i] / p[i].sum()
        assert np.allclose(white @ share, 0, atol=0.06) and np.allclose((white * share) @ white.T, np.eye(d), atol=0.08), (name, i)
PYTHON
fi

# refused WORDS ARGUMENTS...
refused() {
    local words=$1
    shift
    status "$FGMM" sample "$@"
    [ $got = 2 ] && [ "$(grep -c '^fgmm: ' err)" = 1 ] && grep -q -e "$words" err || fail "status $got, not one line with \`$words\`: fgmm sample $*: $(cat err)"
    ! ls refused* >/dev/null 2>&1 || fail "left behind by fgmm sample $*: $(ls refused*)"
}
refused 'needs one model' -n 3 -o refused.fbin
refused 'needs -n N' full.h5 -o refused.fbin
refused 'needs -o FILE' full.h5 -n 3
refused 'unknown format' full.h5 -n 3 -o refused.txt
refused 'HDF5' rows.fbin -n 3 -o refused.fbin
refused 'holds' full.h5 -n 3 -o refused.fvecs --dtype u8
