#!/usr/bin/env bash
# From rows to answers on real vectors: fit, build, search, ground truth, export; the same bytes on any number of ranks; FAISS finds the
# same rows in the exported index; what cannot be done is said in one line and leaves nothing behind.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"
data=$FGMM_TEST_DATA/passages-10k.fbin
queries=$FGMM_TEST_DATA/passages-queries.fbin

"$FGMM" fit "$data" -k 32 --max-iter 5 -o model.h5 -q >/dev/null

# ---- the index: the same bytes whatever ranks, windows, rounds, residency and tiles ----
"$FGMM" build "$data" model.h5 -o hard.h5 >out
grep -q '^postings *10000 ' out || fail "hard lists do not hold each row once: $(cat out)"
"$FGMM" build "$data" model.h5 -o tau.h5 --assign tau --tau 0.05 >out
grep -q '^postings *1[0-9]\{4\} (1\.' out && ! grep -q '^postings *10000 ' out || fail "tau lists hold no row twice: $(cat out)"
for ranks in 2 3; do
    on $ranks build "$data" model.h5 -o other.h5 --log-json log --window 300KiB --exchange 100KiB --residency stream --tile-rows 1k >/dev/null
    cmp hard.h5 other.h5 || fail "hard lists differ on $ranks ranks"
    all_held_rows log $ranks
    residency_was log stream
    on $ranks build "$data" model.h5 -o other.h5 --assign tau --tau 0.05 --threads 3 >/dev/null
    cmp tau.h5 other.h5 || fail "tau lists differ on $ranks ranks"
done

# ---- the other rules: as many postings as asked for, the hard lists among them, and the same bytes on 3 ranks ----
for rule in soar closure tau need; do
    "$FGMM" build "$data" model.h5 -o $rule-15.h5 --assign $rule --replication 1.5 >out
    grep -q '^postings *1\(5000\|49[89].\) ' out && grep -q '^replication *1\.' out || fail "$rule: not 1.5 lists a row: $(cat out)"
    on 3 build "$data" model.h5 -o other.h5 --assign $rule --replication 1.5 --residency stream --tile-rows 1k >/dev/null
    cmp $rule-15.h5 other.h5 || fail "$rule lists differ on 3 ranks"
    "$FGMM" info $rule-15.h5 | grep -q "^assign: $rule" || fail "info does not name the rule: $("$FGMM" info $rule-15.h5)"
done
epsilon=$("$FGMM" build "$data" model.h5 -o other.h5 --assign closure --replication 1.5 | sed -n 's/.*epsilon //p')
"$FGMM" build "$data" model.h5 -o other.h5 --assign closure --epsilon "$epsilon" >/dev/null
cmp closure-15.h5 other.h5 || fail "the epsilon that was printed ($epsilon) makes other lists"
"$FGMM" build "$data" model.h5 -o soar.h5 --assign soar --lambda 1 >out
grep -q '^postings *20000 ' out || fail "soar lists do not hold each row twice: $(cat out)"
if have_python numpy; then
    "$python" -c "import numpy as np; np.save('ids.npy', np.arange(10000, dtype='<i8')[::-1] * 10**14)"
    "$FGMM" build "$data" model.h5 -o own.h5 --ids ids.npy >/dev/null
    on 3 build "$data" model.h5 -o other.h5 --ids ids.npy --window 300KiB >/dev/null
    cmp own.h5 other.h5 || fail "lists with own ids differ on 3 ranks"
fi

# ---- assignments ----
"$FGMM" assign "$data" model.h5 -o assigned.h5 --top 3 --tau 0.01 >out
on 3 assign "$data" model.h5 -o other.h5 --top 3 --tau 0.01 --tile-rows 1k >other
cmp assigned.h5 other.h5 || fail "assignments differ on 3 ranks"
[ "$(grep log-likelihood out)" = "$(grep log-likelihood other)" ] || fail "mean log-likelihoods differ"

# ---- commands tell the same of the same thing ----
"$FGMM" fit "$data" -k 100 --algorithm kmeans --max-iter 3 -o kmeans.h5 2>fitted
"$FGMM" assign "$data" kmeans.h5 -o other.h5 >assigned
told=$(sed -n 's/^mean squared distance \([0-9.]*\)$/\1/p' assigned)
[ -n "$told" ] && grep -q "mean squared distance $told," fitted || fail "fit: $(cat fitted), assign: $(cat assigned)"
"$FGMM" build "$data" kmeans.h5 -o other.h5 >built
told=$("$FGMM" info other.h5 | sed -n 's/^list sizes: //p' | tr -d ' ,')
[ -n "$told" ] && [ "$(sed -n 's/^list sizes //p' built | tr -d ' ')" = "$told" ] || fail "info: $told, build: $(cat built)"

# ---- search ----
"$FGMM" groundtruth "$data" "$queries" -k 50 -o truth.ibin >/dev/null
on 3 groundtruth "$data" "$queries" -k 50 -o other.ibin >/dev/null
cmp truth.ibin other.ibin || fail "ground truths differ on 3 ranks"
for lists in hard tau; do
    "$FGMM" search $lists.h5 "$queries" --nprobe 1,4,32 --groundtruth truth.ibin --csv $lists.csv -o $lists-found.h5 >/dev/null
    on 3 search $lists.h5 "$queries" --nprobe 1,4,32 --groundtruth truth.ibin --csv other.csv -o other.h5 --log-json log >/dev/null
    all_held_rows log 3
    cmp $lists-found.h5 other.h5 || fail "$lists: results differ on 3 ranks"
    [ "$(cut -d, -f1-4 $lists.csv)" = "$(cut -d, -f1-4 other.csv)" ] || fail "$lists: counts differ on 3 ranks"
    # Probing every list finds everything and meets every row once.
    [ "$(sed -n 4p $lists.csv | cut -d, -f2,4)" = "1.000000,10000.000" ] || fail "$lists: a full search is not exact: $(cat $lists.csv)"
done
awk -F, 'NR == 3 { exit !($3 > $4 && $2 > 0.5) }' tau.csv || fail "rows met twice are not told apart: $(cat tau.csv)"

# ---- probing order: by the mixture the same on any ranks and exact when all lists are probed; k-means knows one order ----
"$FGMM" search tau.h5 "$queries" --probe-by posterior --nprobe 1,32 --groundtruth truth.ibin --csv posterior.csv -o posterior.h5 >/dev/null
on 3 search tau.h5 "$queries" --probe-by posterior --nprobe 1,32 --groundtruth truth.ibin -o posterior3.h5 >/dev/null
cmp posterior.h5 posterior3.h5 || fail "results by posterior differ on 3 ranks"
[ "$(sed -n 3p posterior.csv | cut -d, -f2)" = 1.000000 ] || fail "a full search by posterior is not exact: $(cat posterior.csv)"
[ "$(sed -n 2p posterior.csv | cut -d, -f1-4)" != "$(sed -n 2p tau.csv | cut -d, -f1-4)" ] || fail "the posterior orders lists as the centroids do"
"$FGMM" build "$data" kmeans.h5 -o kmeans-index.h5 >/dev/null
"$FGMM" search kmeans-index.h5 "$queries" --nprobe 3 -o centroid.h5 >/dev/null
"$FGMM" search kmeans-index.h5 "$queries" --nprobe 3 --probe-by posterior -o posterior.h5 >/dev/null
cmp centroid.h5 posterior.h5 || fail "a k-means index has two probing orders"

# ---- sketches: the same file whatever ranks wrote it, the same answers from fewer distances, and FAISS is given none ----
"$FGMM" build "$data" model.h5 -o sketched.h5 --assign need --replication 1.5 --sketch 16 >/dev/null
on 3 build "$data" model.h5 -o other.h5 --assign need --replication 1.5 --sketch 16 --window 300KiB --residency stream --tile-rows 1k >/dev/null
cmp sketched.h5 other.h5 || fail "an index with sketches differs on 3 ranks"
"$FGMM" info sketched.h5 >told
grep -q '^sketch/basis: 16 x 100 float64$' told && grep -q '^sketch/values: [0-9]* x 17 float32$' told || fail "info does not show the sketch: $(cat told)"
"$FGMM" search sketched.h5 "$queries" --nprobe 2,8,32 --groundtruth truth.ibin --csv skip.csv -o skip.h5 >told
on 3 search sketched.h5 "$queries" --nprobe 2,8,32 --groundtruth truth.ibin --csv skip3.csv -o skip3.h5 --threads 2 >/dev/null
"$FGMM" search sketched.h5 "$queries" --nprobe 2,8,32 --groundtruth truth.ibin --skip no --csv noskip.csv -o noskip.h5 >/dev/null
cmp skip.h5 noskip.h5 && cmp skip.h5 skip3.h5 || fail "passing over rows changes what is found"
[ "$(cut -d, -f1-4,6-7 skip.csv)" = "$(cut -d, -f1-4,6-7 skip3.csv)" ] || fail "what is passed over differs on 3 ranks"
[ "$(cut -d, -f1-4 skip.csv)" = "$(cut -d, -f1-4 noskip.csv)" ] || fail "passing over rows changes recall and what is met: $(cat skip.csv noskip.csv)"
grep -q 'full/query *sketches/query' told || fail "no columns for what sketches save: $(cat told)"
awk -F, 'NR == 4 { exit !($6 < 0.5 * $4 && $7 <= $3 && $7 > 0.99 * $3) }' skip.csv || fail "sketches rule out too little: $(cat skip.csv)"
"$FGMM" export sketched.h5 --to faiss --primary-only -o sketched.faiss >/dev/null 2>err
"$FGMM" export need-15.h5 --to faiss --primary-only -o other.faiss >/dev/null 2>err
cmp sketched.faiss other.faiss || fail "an export differs with sketches"

# ---- FAISS ----
"$FGMM" export hard.h5 --to faiss -o hard.faiss >/dev/null
"$FGMM" export hard.h5 --to faiss -o disk.faiss --ondisk >/dev/null
"$FGMM" export tau.h5 --to faiss -o primary.faiss --primary-only >/dev/null 2>err
for rule in soar closure need; do
    "$FGMM" export $rule-15.h5 --to faiss -o other.faiss --primary-only >/dev/null 2>err
    cmp hard.faiss other.faiss || fail "the first lists of the $rule index are not the hard lists"
done
cmp hard.faiss primary.faiss || fail "the most likely lists of the tau index are not the hard lists"
status "$FGMM" export tau.h5 --to faiss -o tau.faiss
[ $got = 0 ] && [ "$(grep -c 'in several lists' err)" = 1 ] || fail "no warning of rows that FAISS returns twice: $(cat err)"
"$FGMM" export model.h5 --to npy -o centroids.npy >/dev/null
"$FGMM" export model.h5 --to fbin -o centroids.fbin >/dev/null
[ "$(stat -c %s centroids.fbin)" = $((8 + 32 * 100 * 4)) ] || fail "centroids.fbin has the wrong size"
python=
for candidate in /usr/bin/python3 python3; do
    [ -z "$python" ] && "$candidate" -c 'import faiss, h5py' 2>/dev/null && python=$candidate
done
if [ -n "$python" ]; then
    "$python" - "$queries" <<'PYTHON' || fail "FAISS finds other rows"
import sys
import faiss, h5py, numpy as np
n, d = np.fromfile(sys.argv[1], '<u4', 2)
queries = np.fromfile(sys.argv[1], '<f4', offset=8).reshape(n, d)
found = h5py.File('hard-found.h5')
for name in 'hard.faiss', 'disk.faiss':
    index = faiss.read_index(name)
    for i, nprobe in enumerate([1, 4, 32]):
        index.nprobe = nprobe
        distances, ids = index.search(queries, 10)
        # Neighbours whose distances are equal in 32 bits may change places.
        different = ids != found['ids'][i]
        assert np.allclose(distances, found['distances'][i], atol=1e-5)
        assert different.sum() <= 2, (name, nprobe, int(different.sum()))
faiss.write_index(faiss.read_index('hard.faiss'), 'rewritten.faiss')
assert open('rewritten.faiss', 'rb').read() == open('hard.faiss', 'rb').read()
assert np.load('centroids.npy').shape == (32, 100)

with h5py.File("hard.h5") as index, h5py.File("model.h5") as model:
    assert (index.attrs["format"], model.attrs["format"]) == ("fgmm-ivf", "fgmm-model"), "attributes are not plain text"
PYTHON
else
    echo "no python3 with faiss and h5py: the comparison with FAISS is left out"
fi

# ---- what cannot be done: one line, the right status, nothing left ----
# refused STATUS WORDS ARGUMENTS...
refused() {
    local want=$1 words=$2
    shift 2
    status "$FGMM" "$@"
    [ $got = "$want" ] || fail "status $got instead of $want: fgmm $*: $(cat err)"
    [ "$(grep -c '^fgmm: ' err)" = 1 ] && grep -q "$words" err || fail "not one line with \`$words\`: fgmm $*: $(cat err)"
    ! ls refused* >/dev/null 2>&1 || fail "left behind by fgmm $*: $(ls refused*)"
}
head -c 408 "$data" >one.fbin # one row, with a header that says so
printf '\x01\x00\x00\x00' | dd of=one.fbin conv=notrunc status=none
"$FGMM" fit "$queries" -k 2 --metric cosine --max-iter 2 -o cosine.h5 -q >/dev/null
printf '\x01\x00\x00\x00\x02\x00\x00\x00aaaabbbb' >narrow.fbin
refused 2 'needs data and a model' build "$data" -o refused.h5
refused 2 'dimension' build narrow.fbin model.h5 -o refused.h5
refused 2 'metric' build "$data" cosine.h5 --metric l2 -o refused.h5
refused 2 'give --replication' build "$data" model.h5 --assign need -o refused.h5
refused 2 'sketch 101: must be' build "$data" model.h5 --sketch 101 -o refused.h5
refused 2 'sketch' build "$data" model.h5 --sketch 8 --vectors no -o refused.h5
refused 2 'metric ip' build "$data" model.h5 --sketch 8 --metric ip -o refused.h5
refused 2 'belongs to --assign need' build "$data" model.h5 --assign soar --neighbors 5 -o refused.h5
refused 2 'hard lists hold each row once' build "$data" model.h5 --replication 2 -o refused.h5
refused 2 'must be 1 to 2' build "$data" model.h5 --assign soar --replication 2.5 -o refused.h5
refused 2 'leave --tau out' build "$data" model.h5 --assign tau --tau 0.1 --replication 1.5 -o refused.h5
refused 2 'belongs to --assign soar' build "$data" model.h5 --lambda 1 -o refused.h5
refused 2 'epsilon -1: must be' build "$data" model.h5 --assign closure --epsilon -1 -o refused.h5
refused 2 'one.fbin: ids are read from' build "$data" model.h5 --ids one.fbin -o refused.h5
printf '\x02\x00\x00\x00\x01\x00\x00\x00aaaaaaaabbbbbbbb' >two.i64bin
refused 2 'two.i64bin: holds 2 ids' build "$data" model.h5 --ids two.i64bin -o refused.h5
refused 2 'max-lists' build "$data" model.h5 --assign tau --max-lists 65 -o refused.h5
refused 2 'no such file' build "$data" missing.h5 -o refused.h5
refused 2 'dimension' search hard.h5 narrow.fbin -o refused.h5
refused 2 'not an index' search model.h5 "$queries" -o refused.h5
refused 2 'one nprobe' search hard.h5 "$queries" -o refused.ibin
refused 2 'neighbours' search hard.h5 "$queries" --groundtruth truth.ibin -k 51 -o refused.h5
refused 2 'only 1 rows\|only 1 row' groundtruth one.fbin "$queries" -k 2 -o refused.ibin
refused 2 'dimension' groundtruth "$data" narrow.fbin -o refused.ibin
refused 2 'written as' groundtruth "$data" "$queries" -o refused.txt
refused 2 '32-bit ids' groundtruth synth:n=3G,d=4,k=2 synth:n=1,d=4,k=2 -o refused.ivecs
refused 2 'not an index' export model.h5 --to faiss -o refused.faiss
refused 2 'ends in .npy' export model.h5 --to npy -o refused.fbin
"$FGMM" build "$data" model.h5 -o ids.h5 --vectors no >/dev/null
refused 2 'ids alone' search ids.h5 "$queries" -o refused.h5
head -c 100000 hard.h5 >cut.h5
refused 2 'cut.h5: damaged' search cut.h5 "$queries" -o refused.h5
"$FGMM" fit synth:n=20k,d=128,k=64,seed=1 -k 64 --max-iter 2 -o model128.h5 -q >/dev/null
# The limit on a file's size stands for a full disk (MPI's own files are below it).
# What has been found is kept for --resume: it stands elsewhere here.
(ulimit -f 65536 && trap '' XFSZ && refused 1 'no space left' build synth:n=200k,d=128,k=64,seed=1 model128.h5 -o refused.h5 \
    --checkpoint kept.ckpt)
[ -e kept.ckpt ] || fail "the lists that had been found are gone"

# Cosine: kept in the index, and rows of unit length come back for scaled queries.
"$FGMM" build "$data" cosine.h5 -o cosine-index.h5 >/dev/null
"$FGMM" groundtruth "$data" "$queries" --metric cosine -k 10 -o cosine.ibin >/dev/null
"$FGMM" search cosine-index.h5 "$queries" --nprobe 2 --groundtruth cosine.ibin --csv cosine.csv >/dev/null
[ "$(sed -n 2p cosine.csv | cut -d, -f2)" = 1.000000 ] || fail "cosine: a full search is not exact: $(cat cosine.csv)"
