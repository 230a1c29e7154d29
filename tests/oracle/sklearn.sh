#!/usr/bin/env bash
# scikit-learn as the oracle of mixtures: from the same start, 20 iterations in float64 on real vectors, all kinds of covariance.
# FGMM_DATA names a folder with the larger sets; without it a smaller one serves.
. "$FGMM_SOURCE/tests/support/e2e.sh"

have_python numpy,h5py,sklearn || { echo "no Python with numpy, h5py and scikit-learn"; exit 77; }
oracle=$FGMM_SOURCE/tests/oracle/mixture.py

faults=0
# compare DATA K TYPE: scikit-learn and each backend that is here, from one start.
compare() {
    local data=$1 k=$2 type=$3 backend models=() name backends=(cpu)
    name=$(basename "${data%.*}")-$type
    if [ "$type" = spherical ] || [ "$type" = diag ]; then
        if have_gpu; then backends+=(cuda); fi
    fi
    "$python" "$oracle" start "$data" "$k" "$type" "$name-start.h5"
    for backend in "${backends[@]}"; do
        "$FGMM" fit "$data" -k "$k" --covariance "$type" --init "$name-start.h5" --tol 0 --max-iter 20 --backend "$backend" \
            -o "$name-$backend.h5" -q --log-json "$name-$backend.json"
        models+=("$name-$backend.h5")
        [ "$("$H5GET" "$name-$backend.h5" @n_iter)" = 20 ] || fail "$name-$backend.h5: not 20 iterations"
    done
    "$python" "$oracle" check "$data" "$name-start.h5" "${models[@]}" || faults=$((faults + 1))
}

for type in spherical diag tied full; do
    if [ -n "${FGMM_DATA:-}" ]; then
        compare "$FGMM_DATA/ecco-passages.fbin" 64 $type
        compare "$FGMM_DATA/sift-5k.u8bin" 32 $type
    else
        compare "$FGMM_TEST_DATA/passages-10k.fbin" 32 $type
    fi
done

# Fewer rows a component than it has dimensions: its variances are what rows far away contribute, however little.
"$FGMM" synth n=1500,d=64,k=6,seed=4,dtype=u8,spread=3 few.u8bin -q
compare few.u8bin 24 full
compare few.u8bin 24 tied
[ $faults = 0 ] || fail "$faults fits differ from scikit-learn's"
