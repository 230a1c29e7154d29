#!/usr/bin/env bash
# scikit-learn as the oracle of k-means: Lloyd's iterations from the same centroids, in float64, on real vectors.
. "$FGMM_SOURCE/tests/support/e2e.sh"

have_python numpy,h5py,sklearn || { echo "no Python with numpy, h5py and scikit-learn"; exit 77; }
oracle=$FGMM_SOURCE/tests/oracle/kmeans.py
backends=(cpu)
if have_gpu; then backends+=(cuda); fi

# compare DATA K: scikit-learn and each backend that is here, from one start.
compare() {
    local data=$1 k=$2 backend models=() name
    name=$(basename "${data%.*}")
    "$python" "$oracle" start "$data" "$k" "$name-start.h5"
    for backend in "${backends[@]}"; do
        "$FGMM" fit "$data" -k "$k" --algorithm kmeans --init "$name-start.h5" --tol 0 --max-iter 20 --backend "$backend" \
            -o "$name-$backend.h5" -q
        models+=("$name-$backend.h5")
    done
    "$python" "$oracle" check "$data" "$name-start.h5" "${models[@]}" || fail "k-means of $data differs from scikit-learn's"
}

compare "$FGMM_TEST_DATA/passages-10k.fbin" 50
if [ -n "${FGMM_DATA:-}" ]; then
    compare "$FGMM_DATA/ecco-passages.fbin" 256
    compare "$FGMM_DATA/sift-5k.u8bin" 64
fi
