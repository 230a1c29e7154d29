#!/usr/bin/env bash
# What is planned is what happens: the rows live where it was said, in the memory that was said, on as many ranks.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"

# number LOG KEY: the last number of that name in the log.
number() { sed -n "s/.*\"$2\":\([0-9.e+-]*\).*/\1/p" "$1" | tail -n 1; }
word() { sed -n "s/.*\"$2\":\"\([^\"]*\)\".*/\1/p" "$1" | tail -n 1; }

# happens RANKS OPTIONS...: a fit lives where the plan says, and its rows and buffers take what the plan says.
happens() {
    local ranks=$1 planned used
    shift
    rm -f plan.json fit.json
    "$FGMM" plan -n 60k -d 64 -k 16 --dtype u8 --nodes "$ranks" --log-json plan.json "$@" >out
    on "$ranks" fit synth:n=60k,d=64,k=16,dtype=u8 -k 16 --max-iter 1 --backend cpu -q -o model.h5 --log-json fit.json "$@"
    [ "$(word plan.json residency)" = "$(word fit.json residency)" ] ||
        fail "$*: planned $(word plan.json residency), but the rows lived in $(word fit.json residency)"
    planned=$(($(number plan.json host_bytes) - $(number plan.json workspace_bytes)))
    used=$(number fit.json peak_host_bytes)
    # Rank 0's shard may have 1024 rows less than the largest.
    [ "$planned" -ge "$used" ] && [ "$planned" -le $((used + 65536)) ] || fail "$*: $planned bytes planned for rows and buffers, $used taken"
    grep -q "^ranks  *$ranks on $ranks node" out || fail "not $ranks ranks: $(cat out)"
}
happens 1
happens 3
happens 2 --residency stream
happens 2 --residency stream --tile-rows 2k
happens 1 --residency host --tile-rows 2k

"$FGMM" plan -n 1G -d 128 -k 65536 --dtype u8 --nodes 4 --host-memory 300GiB --rate 1M --max-iter 50 --log-json big.json >out
[ "$(number big.json data_bytes)" = 128000000000 ] || fail "1G x 128 bytes: $(number big.json data_bytes)"
[ "$(number big.json exchanged_bytes)" = $((8 * 65536 * (1 + 128 + 2))) ] || fail "statistics: $(number big.json exchanged_bytes)"
[ "$(word big.json residency)" = host ] || fail "32 GB do not live in 300: $(cat out)"
awk "BEGIN { exit !($(number big.json iteration_seconds) > 249 && $(number big.json iteration_seconds) < 251) }" || fail "not 250 s an iteration: $(cat out)"
grep -q '^#SBATCH --nodes=4$' out && grep -q '^#SBATCH --time=4:2[0-9]:00$' out || fail "no head of a batch file: $(cat out)"
"$FGMM" plan -n 1G -d 128 -k 65536 --dtype u8 --nodes 4 --host-memory 20GiB --log-json mixed.json >out
[[ $(word mixed.json residency) == host*%,*stream*% ]] || fail "32 GB live in 20: $(cat out)"
grep -q '^an iteration  *unknown: give --rate' out || fail "seconds without a rate: $(cat out)"

# refused WORDS ARGUMENTS...
refused() {
    local words=$1
    shift
    status "$FGMM" plan "$@"
    [ $got = 2 ] && [ "$(grep -c '^fgmm: ' err)" = 1 ] && grep -q -e "$words" err || fail "status $got, not one line with \`$words\`: fgmm plan $*: $(cat err)"
}
refused 'must be 1 to' -n 5 -d 3
refused 'must be given' -d 3 -k 2
refused 'more components than' -n 5 -d 3 -k 6
refused 'takes options alone' rows.fbin -n 5 -d 3 -k 2
refused 'host memory' -n 1G -d 100 -k 10 --residency host --host-memory 1GiB
refused 'leave --covariance out' -n 10 -d 3 -k 2 --algorithm kmeans --covariance full
refused 'more bytes than there are' -n 9000000000000000000 -d 100 -k 10
if "$FGMM" --version | grep -q '^CUDA architectures: none'; then
    refused 'built without CUDA' -n 1M -d 10 -k 10 --gpus 4
else
    "$FGMM" plan -n 1G -d 128 -k 65536 --dtype f32 --gpus 4 --log-json gpus.json >out
    [ "$(number gpus.json ranks)" = 4 ] && grep -q '^#SBATCH --gpus-per-task=1$' out || fail "no GPUs: $(cat out)"
    [[ $(word gpus.json residency) == device*%,* ]] || fail "128 GB live in 72: $(cat out)"
fi
