#!/usr/bin/env bash
# What is exported to FAISS: rows of every type keep their bits, FAISS finds what fgmm search finds, and goes on with the bare coarse
# quantiser; what cannot be exported is said in one line.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"
passages=$FGMM_TEST_DATA/passages-10k.fbin

"$FGMM" convert "$passages" f32.fbin --rows :3k -q
"$FGMM" convert "$FGMM_TEST_DATA/passages-queries.fbin" f32-queries.fbin -q
"$FGMM" convert f32.fbin f16.f16bin -q
cp f32-queries.fbin f16-queries.fbin
for type in u8 i8; do
    "$FGMM" synth n=3k,d=48,k=12,seed=2,dtype=$type $type.${type}bin -q
    "$FGMM" synth n=50,d=48,k=12,seed=3,dtype=$type $type-queries.${type}bin -q
done

# ---- rows of every type ----
declare -A kind=([f32]='IndexIVFFlat (32-bit floats)' [f16]='IndexIVFScalarQuantizer (QT_fp16)' [i8]='IndexIVFScalarQuantizer (QT_fp16)'
    [u8]='IndexIVFScalarQuantizer (QT_8bit_direct)')
for type in f32 f16 i8 u8; do
    "$FGMM" fit $type.*bin -k 16 --max-iter 3 -o $type.h5 -q
    "$FGMM" build $type.*bin $type.h5 -o $type-index.h5 >out
    "$FGMM" search $type-index.h5 $type-queries.*bin --nprobe 1,3,16 -o $type-found.h5 >out
    "$FGMM" export $type-index.h5 --to faiss -o $type.faiss >out 2>err
    [ "$(cat out)" = "3000 vectors in 16 lists, ${kind[$type]}" ] || fail "$type: $(cat out)"
    case $type in
    u8) grep -q 'cut queries to whole numbers' err || fail "no word of queries in FAISS's bytes: $(cat err)" ;;
    i8) grep -q 'i8 rows become 16-bit floats' err || fail "no word of another type: $(cat err)" ;;
    *) [ ! -s err ] || fail "$type: $(cat err)" ;;
    esac
done
"$FGMM" export f32-index.h5 --to faiss --as f32 -o other.faiss >out
cmp f32.faiss other.faiss || fail "--as f32 changes rows that are f32"
"$FGMM" export u8-index.h5 --to faiss --ondisk -o u8-disk.faiss >out 2>err
"$FGMM" export u8-index.h5 --to faiss --as f32 -o u8-f32.faiss >out 2>err
[ "$(cat out)" = "3000 vectors in 16 lists, ${kind[f32]}" ] && ! grep -q 'cut queries' err || fail "--as f32: $(cat out err)"
"$FGMM" build u8.u8bin u8.h5 -o tau.h5 --assign tau --tau 0.01 >out
"$FGMM" export tau.h5 --to faiss --primary-only -o primary.faiss >out 2>err
cmp u8.faiss primary.faiss || fail "the most likely lists of u8 rows are not the hard lists"
status "$FGMM" export tau.h5 --to faiss -o tau.faiss
[ $got = 0 ] && [ "$(grep -c 'in several lists' err)" = 1 ] || fail "no warning of rows that FAISS returns twice: $(cat err)"

# ---- the bare coarse quantiser: the same from index, ids alone, and model ----
"$FGMM" export f32.h5 --to faiss --coarse -o coarse.faiss >out
[ "$(cat out)" = "16 empty lists of dimension 100, ${kind[f32]}" ] || fail "coarse: $(cat out)"
"$FGMM" export f32-index.h5 --to faiss --coarse -o other.faiss >out
cmp coarse.faiss other.faiss || fail "the quantisers of a model and of its index differ"
"$FGMM" build f32.fbin f32.h5 --vectors no -o ids.h5 >out
"$FGMM" export ids.h5 --to faiss --coarse -o other.faiss >out
cmp coarse.faiss other.faiss || fail "the quantiser of an index of ids differs"

if have_python faiss,h5py,numpy; then
    "$python" - <<'PYTHON' || fail "FAISS reads or finds something else"
import faiss, h5py, numpy as np

types = {'f32': '<f4', 'f16': '<f2', 'u8': 'u1', 'i8': 'i1'}

def rows(name, dtype):
    n, d = np.fromfile(name, '<u4', 2)
    return np.fromfile(name, dtype, offset=8).reshape(n, d).astype('f4')

def agree(index, found, queries):
    for i, nprobe in enumerate([1, 3, 16]):
        index.nprobe = nprobe
        distances, ids = index.search(queries, 10)
        assert np.allclose(distances, found['distances'][i], rtol=1e-5, atol=1e-5, equal_nan=True)
        # Equal distances leave the order open, and at the end which of the rows are taken.
        nearer = distances < distances[:, -1:] - 1e-5 * np.abs(distances[:, -1:])
        for mine, theirs, sure in zip(ids, found['ids'][i], nearer):
            assert set(mine[sure]) <= set(theirs), nprobe

for t, dtype in types.items():
    suffix = {'f32': 'fbin'}.get(t, t + 'bin')
    data = rows(f'{t}.{suffix}', dtype)
    queries = rows(*((f'{t}-queries.fbin', '<f4') if t[0] == 'f' else (f'{t}-queries.{suffix}', dtype)))
    found = h5py.File(f'{t}-found.h5')
    for name in [f'{t}.faiss'] + ['u8-disk.faiss', 'u8-f32.faiss'] * (t == 'u8'):
        index = faiss.read_index(name)
        assert index.ntotal == 3000 and index.metric_type == faiss.METRIC_L2, name
        agree(index, found, queries)
        index.make_direct_map()
        assert (index.reconstruct_n(0, 3000) == data).all(), f'{name}: not the bits of the rows'
    faiss.write_index(faiss.read_index(f'{t}.faiss'), 'rewritten.faiss')
    assert open('rewritten.faiss', 'rb').read() == open(f'{t}.faiss', 'rb').read(), t

data, queries = rows('f32.fbin', '<f4'), rows('f32-queries.fbin', '<f4')
index = faiss.read_index('coarse.faiss')
assert index.is_trained and index.ntotal == 0 and index.nlist == 16
index.add(data)
index.nprobe = 16
exact = faiss.knn(queries, data, 10)[1]
assert (index.search(queries, 10)[1] != exact).mean() < 0.001
faiss.write_index(faiss.read_index('coarse.faiss'), 'rewritten.faiss')
assert open('rewritten.faiss', 'rb').read() == open('coarse.faiss', 'rb').read()

bare = faiss.read_index('coarse.faiss')
quantizer = bare.quantizer
before = quantizer.reconstruct_n(0, 16)
pq = faiss.IndexIVFPQ(quantizer, 100, 16, 25, 6)
pq.train(data)
assert (quantizer.reconstruct_n(0, 16) == before).all(), 'FAISS trained centroids of its own'
pq.add(data)
pq.nprobe = 16
ids = pq.search(queries, 10)[1]
recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, exact)])
assert recall > 0.5, recall
PYTHON
else
    echo "no python3 with faiss and h5py: what FAISS makes of the files is left out"
fi

# ---- what cannot be exported ----
# refused WORDS ARGUMENTS...
refused() {
    local words=$1
    shift
    status "$FGMM" export "$@" -o refused.faiss
    [ $got = 2 ] && [ "$(grep -c '^fgmm: ' err)" = 1 ] && grep -q -e "$words" err || fail "status $got, not one line with \`$words\`: fgmm export $*: $(cat err)"
    ! ls refused* >/dev/null 2>&1 || fail "left behind by fgmm export $*: $(ls refused*)"
}
refused 'ids alone' ids.h5 --to faiss
refused '--coarse writes no rows' u8-index.h5 --to faiss --coarse --as f32
refused '--coarse writes no rows' u8-index.h5 --to faiss --coarse --ondisk
refused '--metric goes with --coarse' u8-index.h5 --to faiss --metric l2
refused 'built with --metric l2' u8-index.h5 --to faiss --coarse --metric cosine
refused 'fitted with --metric l2' f32.h5 --to faiss --coarse --metric cosine
refused 'go with --to faiss' f32.h5 --to fbin --coarse
refused 'go with --to faiss' f32.h5 --to fbin --as f32
refused 'another format' f32.fbin --to faiss --coarse
