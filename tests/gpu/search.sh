#!/usr/bin/env bash
# Searching on a GPU finds what a CPU finds, ids and distances bit for bit: lists that fit and lists that do not, rows of every type in
# one list and in several; and so does the ground truth.
. "$FGMM_SOURCE/tests/support/e2e.sh"

have_gpu || { echo "skipped: no GPU"; exit 77; }

rows=$FGMM_TEST_DATA/passages-10k.fbin queries=$FGMM_TEST_DATA/passages-queries.fbin

"$FGMM" fit "$rows" -k 40 --max-iter 5 --backend cpu -o model.h5 >/dev/null
for rule in hard tau; do
    "$FGMM" build "$rows" model.h5 --assign $rule --backend cpu -o $rule.h5 >/dev/null
    for setting in "-k 10" "-k 300 --probe-by posterior"; do
        # shellcheck disable=SC2086 # the setting is several words
        for memory in 1GiB 3MiB; do
            "$FGMM" search $rule.h5 "$queries" $setting --nprobe 1,5,40 --backend cpu -o cpu.h5 >/dev/null
            "$FGMM" search $rule.h5 "$queries" $setting --nprobe 1,5,40 --backend cuda --device-memory $memory -o cuda.h5 >/dev/null
            "$H5SAME" cpu.h5 cuda.h5 || fail "$rule $setting, $memory: other neighbours than on the CPU"
        done
    done
done

for type in f16 u8 i8; do
    "$FGMM" synth "synth:n=21000,d=37,k=20,spread=1,dtype=$type" rows.${type}bin >/dev/null
    "$FGMM" synth "synth:n=300,d=37,k=20,spread=1,seed=2,dtype=$type" queries.${type}bin >/dev/null
    "$FGMM" fit rows.${type}bin -k 20 --max-iter 3 --backend cpu -o $type.h5 >/dev/null
    "$FGMM" build rows.${type}bin $type.h5 --assign soar --backend cpu -o $type-index.h5 >/dev/null
    for backend in cpu cuda; do
        "$FGMM" search $type-index.h5 queries.${type}bin --nprobe 1,7 --backend $backend -o $backend.h5 >/dev/null
        "$FGMM" groundtruth rows.${type}bin queries.${type}bin -k 50 --backend $backend -o $backend.ibin >/dev/null
    done
    "$H5SAME" cpu.h5 cuda.h5 || fail "$type: other neighbours than on the CPU"
    cmp cpu.ibin cuda.ibin || fail "$type: another ground truth than on the CPU"
done
