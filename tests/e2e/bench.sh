#!/usr/bin/env bash
# Every bench checks its answer and prints one line of JSON with the members that scripts rely on.

# prints RANKS "MEMBERS" ARGUMENTS...: exit status 0, one line on stdout, all members in it and none of them null.
prints() {
    local ranks=$1 members=$2
    shift 2
    # shellcheck disable=SC2086 # the launcher is several words
    $MPIRUN -n "$ranks" "$FGMM" bench "$@" --backend cpu --reps 2 -q >line
    python3 -c '
import json, sys
ranks, members, bench = sys.argv[1:]
lines = open("line").read().splitlines()
assert len(lines) == 1, f"{len(lines)} lines"
result = json.loads(lines[0])
assert result["bench"] == bench and result["ranks"] == int(ranks) and result["backend"] == "cpu"
for member in members.split() + ["commit", "device", "threads"]:
    assert result.get(member) is not None, f"no {member}"
    assert member != "ms_median" or result["ms_median"] >= result["ms_min"] > 0
' "$ranks" "$members" "$1" || { echo "fgmm bench $*:"; cat line; return 1; }
}

estep='rows dim k covariance dtype ms_median ms_min rows_per_s tflops_dense gemm_tflops max_rel_err pairs_per_row residency'
for covariance in spherical diag tied full; do
    prints 2 "$estep" estep --rows 3000 --dim 10 -k 20 --covariance "$covariance" --spread 1 --dtype f16
done
for covariance in diag full; do
    prints 1 "$estep" estep --rows 2000 --dim 10 -k 20 --covariance "$covariance" --condition 1e4 --dtype u8
    grep -q 'anisotropy=100,' line
done
prints 1 "$estep" estep "$FGMM_TEST_DATA/passages-10k.fbin" -k 50 --threads 2
# A model of the user's own, with its number of components, shape and metric.
"$FGMM" fit "$FGMM_TEST_DATA/passages-10k.fbin" -k 7 --covariance tied --metric cosine --max-iter 2 -q --backend cpu -o own.h5 >/dev/null
prints 2 "$estep model" estep "$FGMM_TEST_DATA/passages-10k.fbin" --model own.h5
grep -q '"k":7,"covariance":"tied"' line
"$FGMM" fit "$FGMM_TEST_DATA/passages-10k.fbin" -k 9 --algorithm kmeans --max-iter 2 -q --backend cpu -o means.h5 >/dev/null
prints 1 "$estep model" kmeans "$FGMM_TEST_DATA/passages-10k.fbin" --model means.h5
grep -q '"k":9,"covariance":"hard"' line
prints 3 "$estep" kmeans --rows 5000 --dim 17 -k 33 --dtype u8
prints 1 'rows dim k dtype queries nprobe neighbors ms_median queries_per_s scanned_per_query bytes_touched floor_ms floor_share' \
    search --rows 20000 --dim 17 -k 40 --dtype u8 --spread 1 --queries 200 --nprobe 3 --neighbors 5
prints 1 gemm_tflops gemm
prints 1 'bytes ms_median gb_per_s' copy --bytes 4MiB
prints 3 'bytes ms_median gb_per_s' allreduce --bytes 1MiB
prints 1 'rows dim dtype rounds bytes ms_median gb_per_s' shuffle --rows 2000 --dim 10
prints 3 'rows dim dtype rounds bytes ms_median gb_per_s' shuffle --rows 50001 --dim 17 --dtype u8 --bytes 64KiB
prints 2 'rows dim bytes ms_median gb_per_s gb_per_s_first' read "$FGMM_TEST_DATA/passages-10k.fbin"

# shellcheck disable=SC2016 # backticks are words of the messages
# fails TEXT ARGUMENTS...: bad usage, said in one line.
fails() {
    local text=$1 got=0
    shift
    "$FGMM" bench "$@" --backend cpu >out 2>err || got=$?
    [ "$got" = 2 ] || { echo "fgmm bench $*: exit status $got"; cat err; return 1; }
    grep -q "^fgmm: bench: .*$text" err || { echo "fgmm bench $*: no word of: $text"; cat err; return 1; }
    [ ! -s out ] || { echo "fgmm bench $*: printed a result"; return 1; }
}
fails 'name a bench'
fails 'no bench `fly`' fly
fails 'needs a GPU' h2d
fails 'name the data' read
fails 'as many rows' estep --rows 10 -k 20
fails 'reps' estep --reps 0
fails 'nprobe at most -k' search --nprobe 100 -k 50
fails 'makes its own rows' search "$FGMM_TEST_DATA/passages-10k.fbin" -k 50
fails 'condition must lie' estep --covariance full --condition 0.5
fails 'condition is for' estep --covariance tied --condition 10
fails 'condition is for' kmeans --condition 10
fails 'model is for' estep --model own.h5
fails 'model is for' read "$FGMM_TEST_DATA/passages-10k.fbin" --model own.h5
fails 'give it to `bench kmeans`' estep "$FGMM_TEST_DATA/passages-10k.fbin" --model means.h5
fails 'the rows have 3' estep synth:n=100,d=3,k=2 --model own.h5
