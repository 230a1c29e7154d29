#!/usr/bin/env bash
# The inner product as what near means, and files in the layout of ann-benchmarks: exact answers, the same on any number of ranks and in
# FAISS; what makes no sense together is said in one line.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"
have_python numpy,h5py || { echo "no python3 with numpy and h5py"; exit 77; }
refused() {
    local words=$1
    shift
    status "$FGMM" "$@"
    [ $got = 2 ] && [ "$(grep -c '^fgmm: ' err)" = 1 ] && grep -q -e "$words" err || fail "status $got, not one line with \`$words\`: fgmm $*: $(cat err)"
    ! ls refused* >/dev/null 2>&1 || fail "left behind by fgmm $*: $(ls refused*)"
}

# Rows of many lengths, some twice, so that products tie; one file a distance, as ann-benchmarks has them (texts of both kinds).
"$python" - "$FGMM_TEST_DATA" <<'PYTHON'
import sys, h5py, numpy as np
def rows(name):
    n, d = np.fromfile(name, '<u4', 2)
    return np.fromfile(name, '<f4', offset=8).reshape(n, d)
train = rows(sys.argv[1] + '/passages-10k.fbin')[:4000].copy()
train *= np.exp(np.random.RandomState(1).normal(0, 0.4, (4000, 1))).astype('f4')
train[3000:3100] = train[:100]
test = rows(sys.argv[1] + '/passages-queries.fbin')[:60]
unit = lambda x: x.astype('f8') / np.linalg.norm(x.astype('f8'), axis=1, keepdims=True)
x, q = train.astype('f8'), test.astype('f8')
squares = ((q * q).sum(1)[:, None] + (x * x).sum(1) - 2 * q @ x.T).clip(0)
for name, order in ('euclidean', np.sqrt(squares)), ('angular', 1 - unit(test) @ unit(train).T), ('dot', -(q @ x.T)):
    ids = np.argsort(order, axis=1, kind='stable')[:, :50]
    with h5py.File(name + '.h5', 'w') as f:
        f.attrs['distance'] = np.bytes_(name) if name == 'dot' else name
        f.attrs['type'] = 'dense'
        f['train'], f['test'] = train, test
        f['neighbors'] = ids.astype('i4')
        f['distances'] = np.take_along_axis(order, ids, 1).astype('f4')
PYTHON

# ---- one file is data, queries and truth: all lists find everything ----
for distance in euclidean:l2 angular:cosine dot:ip; do
    file=${distance%:*}.h5 metric=${distance#*:}
    fitted=$metric
    [ $metric != ip ] || fitted=l2
    "$FGMM" fit "$file" --metric $fitted -k 20 --max-iter 3 -o $metric.h5 -q
    "$FGMM" build "$file" $metric.h5 --metric $metric --assign tau --tau 0.02 -o $metric-index.h5 >out
    "$FGMM" search $metric-index.h5 "$file" --groundtruth "$file" --nprobe 2,20 --csv $metric.csv -o $metric-found.h5 >out
    [ "$(sed -n 3p $metric.csv | cut -d, -f2)" = 1.000000 ] || fail "$metric: a full search is not exact: $(cat $metric.csv)"
    "$FGMM" search $metric-index.h5 "$file:/test" --groundtruth "$file:/neighbors" --nprobe 2 >named
    "$FGMM" groundtruth "$file" "$file" --metric $metric -k 50 -o $metric-truth.h5 >out
    grep -q '^60 queries' out || fail "the queries are not the file's /test: $(cat out)"
    [ $metric = ip ] || continue
    on 3 groundtruth "$file" "$file" --metric $metric -k 50 -o other.h5 --residency stream --tile-rows 1k >out
    cmp $metric-truth.h5 other.h5 || fail "$metric: ground truths differ on 3 ranks"
    on 3 build "$file" $metric.h5 --metric $metric --assign tau --tau 0.02 -o other.h5 >out
    cmp $metric-index.h5 other.h5 || fail "$metric: indexes differ on 3 ranks"
    on 3 search $metric-index.h5 "$file" --nprobe 2,20 -o other.h5 >out
    cmp $metric-found.h5 other.h5 || fail "$metric: results differ on 3 ranks"
    "$FGMM" info $metric-index.h5 | grep -q "^metric: $metric$" || fail "info does not name the metric $metric"
done
"$FGMM" assign dot.h5 ip.h5 -o assigned.h5 >out
"$FGMM" convert dot.h5 dot.fbin -q
"$FGMM" build dot.fbin ip.h5 --metric ip --assign tau --tau 0.02 -o other.h5 >out
cmp ip-index.h5 other.h5 || fail "a file that says dot and one that says nothing make different lists"
"$FGMM" info dot.h5:/test >out
grep -q 'use --metric ip' out || fail "info does not say how to read: $(cat out)"
# A truth of ours is queries, too.
"$FGMM" search ip-index.h5 ip-truth.h5 --groundtruth ip-truth.h5 --nprobe 20 -o other.h5 --csv other.csv >out
[ "$(sed -n 2p other.csv | cut -d, -f2)" = 1.000000 ] || fail "queries from a file of neighbours: $(cat other.csv)"

# ---- the numbers; FAISS ----
"$FGMM" groundtruth dot.fbin dot.h5:/test --metric ip -k 50 -o ip.ibin >out
"$FGMM" export ip-index.h5 --to faiss --primary-only -o ip.faiss >out
"$FGMM" build dot.fbin ip.h5 --metric ip -o hard.h5 >out
"$FGMM" search hard.h5 dot.h5 --nprobe 1,3,20 -o hard-found.h5 >out
"$FGMM" export hard.h5 --to faiss -o hard.faiss >out
cmp ip.faiss hard.faiss || fail "the most likely lists are not the hard lists"
"$FGMM" export ip.h5 --to faiss --coarse --metric ip -o coarse.faiss >out
"$FGMM" export hard.h5 --to faiss --coarse -o other.faiss >out
cmp coarse.faiss other.faiss || fail "the quantisers of a model and of its index differ"
"$python" - <<'PYTHON' || fail "numbers differ"
import h5py, numpy as np
for metric, name in ('l2', 'euclidean'), ('cosine', 'angular'), ('ip', 'dot'):
    with h5py.File(metric + '-truth.h5') as ours, h5py.File(name + '.h5') as theirs:
        assert ours.attrs['distance'] == name and ours.attrs['dimension'] == 100
        sign = -1 if metric == 'ip' else 1
        assert np.allclose(ours['distances'], sign * theirs['distances'][:], atol=2e-5), metric
        assert (ours['neighbors'][:] != theirs['neighbors'][:]).mean() < 0.002, metric  # ties in 32 bits
        if metric == 'cosine':
            assert np.allclose(np.linalg.norm(ours['test'], axis=1), 1)
        else:
            assert (ours['test'][:] == theirs['test'][:]).all()
with h5py.File('ip-truth.h5') as truth, h5py.File('dot.h5') as file:
    x, q, ids, products = file['train'][:].astype('f8'), file['test'][:].astype('f8'), truth['neighbors'][:], truth['distances'][:]
    assert (np.diff(products, axis=1) <= 0).all()
    ties = np.diff(products, axis=1) == 0
    assert ties.any() and (np.diff(ids, axis=1)[ties] > 0).all(), 'equal products are not in the order of their ids'
    assert np.allclose(products, np.take_along_axis(q @ x.T, ids, 1), rtol=1e-6)
    words = np.fromfile('ip.ibin', '<i4', offset=8)
    assert (words[:3000].reshape(60, 50) == ids).all() and (words[3000:].view('<f4').reshape(60, 50) == products).all()
try:
    import faiss
except ImportError:
    print('no faiss: the comparison with it is left out')
    raise SystemExit
index = faiss.read_index('hard.faiss')
assert index.metric_type == faiss.METRIC_INNER_PRODUCT and index.quantizer.metric_type == faiss.METRIC_INNER_PRODUCT
found = h5py.File('hard-found.h5')
for i, nprobe in enumerate([1, 3, 20]):
    index.nprobe = nprobe
    products, ids = index.search(q.astype('f4'), 10)
    assert np.allclose(products, found['distances'][i], rtol=1e-5)
    surely = products > products[:, -1:] + 1e-5
    for a, b, sure in zip(ids, found['ids'][i], surely):
        assert set(a[sure]) <= set(b), nprobe
coarse = faiss.read_index('coarse.faiss')
coarse.add(x.astype('f4'))
coarse.nprobe = 20
assert coarse.metric_type == faiss.METRIC_INNER_PRODUCT
assert np.allclose(coarse.search(q.astype('f4'), 10)[0], products, rtol=1e-5)
PYTHON

# ---- what makes no sense ----
refused 'components are made by the squared distance' fit dot.h5 -k 3 --metric ip -o refused.h5
refused 'components are made by the squared distance' assign dot.h5 ip.h5 --metric ip -o refused.h5
refused 'made for the inner product: add --metric ip' build dot.h5 ip.h5 -o refused.h5
refused 'made for the inner product: add --metric ip' groundtruth dot.h5 dot.h5 -o refused.ibin
refused 'made for the angular distance: add --metric cosine' groundtruth angular.h5 angular.h5 --metric ip -o refused.ibin
refused 'fitted with --metric cosine, not l2.*inner product' build dot.h5 cosine.h5 --metric ip -o refused.h5
refused 'built with --metric ip' search ip-index.h5 dot.h5 --metric l2 -o refused.h5
refused 'leave --probe-by posterior out' search ip-index.h5 dot.h5 --probe-by posterior -o refused.h5
refused 'stop rule goes by distances' search ip-index.h5 dot.h5 --learn-stop
refused 'recall-target goes by distances' search ip-index.h5 dot.h5 --recall-target 0.9 -o refused.h5
refused 'made for the inner product' search l2-index.h5 dot.h5 -o refused.h5
"$python" -c "
import h5py
with h5py.File('hamming.h5', 'w') as f, h5py.File('euclidean.h5') as from_:
    f.attrs['distance'] = 'hamming'
    f['train'] = from_['train'][:100]"
refused 'hamming distance' fit hamming.h5 -k 3 -o refused.h5
