#!/usr/bin/env bash
# Bad usage and bad input of fit, on one rank and on three: the exit status, one line that names what is wrong and where, and
# nothing under the output's name or beside it. What stood there before stays as it was.
# shellcheck disable=SC2054 # commas are part of synth: specs
. "$FGMM_SOURCE/tests/support/e2e.sh"

rows=$FGMM_TEST_DATA/passages-10k.fbin # 10,000 x 100
row_bytes=400
mkdir made
counts="1 3" # of ranks

# refused STATUS TEXT ARGUMENTS...: the fit ends so and says so. An output is named unless the arguments do.
refused() {
    local expected=$1 text=$2 ranks output=(-o made/model.h5)
    shift 2
    case " $* " in *" -o "* | *" without-output "*) output=() ;; esac
    if [ "${!#}" = without-output ]; then set -- "${@:1:$#-1}"; fi
    for ranks in $counts; do
        status on "$ranks" fit "$@" "${output[@]}"
        [ "$got" = "$expected" ] || fail "fit $*: exit status $got on $ranks ranks, not $expected: $(cat err)"
        [ "$(grep -c '^fgmm: ' err)" = 1 ] || fail "fit $*: not one line of error on $ranks ranks: $(cat err)"
        [ "$ranks" != 1 ] || [ "$(wc -l <err)" = 1 ] || fail "fit $*: more than one line on stderr: $(cat err)"
        grep '^fgmm: fit: ' err | grep -F -- "$text" >/dev/null || fail "fit $*: no word of \`$text\`: $(cat err)"
        [ ! -s out ] || fail "fit $*: something on stdout: $(cat out)"
        [ -z "$(ls -A made)" ] || fail "fit $*: left behind on $ranks ranks: $(ls -A made)"
    done
}

# put OFFSET ESCAPES FILE: overwrites bytes.
put() {
    # shellcheck disable=SC2059 # the format is the bytes
    printf "$2" | dd of="$3" bs=1 seek="$1" conv=notrunc status=none
}

# at ROW COLUMN: where this element of $rows stands.
at() { echo $((8 + $1 * row_bytes + 4 * $2)); }

# ---- files ----

head -c 2000000 "$rows" >truncated.fbin
refused 2 'truncated.fbin: has 2000000 bytes' truncated.fbin -k 4
counts=3
{ cat "$rows"; echo more; } >longer.fbin
refused 2 'longer.fbin: has 4000013 bytes' longer.fbin -k 4
head -c 5 "$rows" >header.fbin
refused 2 'header.fbin: has 5 bytes' header.fbin -k 4
: >empty.fbin
refused 2 'empty.fbin' empty.fbin -k 1
printf '\0\0\0\0\4\0\0\0' >no_rows.fbin
refused 2 'no_rows.fbin: holds no rows' no_rows.fbin -k 1
refused 2 'missing.fbin' "$rows" missing.fbin -k 4
echo 1,2,3 >rows.csv
refused 2 'rows.csv: unknown format' rows.csv -k 1
mkdir nothing
refused 2 'nothing' nothing -k 1
refused 2 'none*.fbin' 'none*.fbin' -k 1
printf '\2\0\0\0\4\0\0\0\1\2\3\4\5\6\7\10' >four.u8bin
printf '\2\0\0\0\144\0\0\0%0200d' 0 >hundred.u8bin
printf '\1\0\0\0\4\0\0\0%016d' 0 >four.fbin
refused 2 'four.fbin: rows of dimension 4, but' "$rows" four.fbin -k 4
refused 2 'hundred.u8bin: rows of type u8, but' "$rows" hundred.u8bin -k 4
cp four.u8bin text.h5
refused 2 'text.h5' text.h5 -k 1
cp four.u8bin text.npy
refused 2 'text.npy' text.npy -k 1
printf '\3\0\0\0%012d\4\0\0\0%016d' 0 0 >two_dims.fvecs
refused 2 'two_dims.fvecs' two_dims.fvecs -k 1

# ---- values: NaN and infinities, in the first and the last rows of all and of a shard, wherever rows live ----

counts="1 3"
cp "$rows" nan.fbin
put "$(at 7777 17)" '\0\0\300\177' nan.fbin
refused 2 'nan.fbin: row 7777 holds a NaN (column 17)' nan.fbin -k 4
refused 2 'nan.fbin: row 7777 holds a NaN (column 17)' nan.fbin -k 4 --residency stream --tile-rows 1000
refused 2 'nan.fbin: row 7777 holds a NaN (column 17)' nan.fbin -k 4 --metric cosine
refused 2 'nan.fbin: row 7777 holds a NaN (column 17; row 17777' "$rows" nan.fbin --algorithm kmeans -k 4
cp "$rows" inf.fbin
put "$(at 9999 99)" '\0\0\200\377' inf.fbin
refused 2 'inf.fbin: row 9999 holds' inf.fbin -k 4
printf '\2\0\0\0\2\0\0\0\0\0\0\0\0\174\0\0' >inf.f16bin
refused 2 'inf.f16bin: row 1 holds' inf.f16bin -k 1
status "$FGMM" fit nan.fbin -k 4 --rows :7777 --max-iter 1 -o before.h5
[ "$got" = 0 ] || fail "the rows before a NaN are refused: $(cat err)"

# ---- options ----

refused 2 'K is 10001, but there are only 10000 rows' "$rows" -k 10001
refused 2 '-k' "$rows" -k 0
counts=1 # what is wrong with a line is found out before ranks are told of it
refused 2 '-k' "$rows" -k -1
refused 2 '-k' "$rows"
refused 2 'some' "$rows" -k some
refused 2 'no DATA' -k 4
refused 2 '-o' "$rows" -k 4 without-output
refused 2 'no_folder' "$rows" -k 4 -o no_folder/model.h5
refused 2 'made' "$rows" -k 4 -o made
refused 2 '--rows' "$rows" -k 4 --rows 5:5
refused 2 'rows 9999:10001 of 10000' "$rows" -k 1 --rows 9999:10001
refused 2 'did you mean --covariance' "$rows" -k 4 --covarianse full
refused 2 'round' "$rows" -k 4 --covariance round
refused 2 '--tol' "$rows" -k 4 --tol -1
refused 2 '--reg-covar' "$rows" -k 4 --reg-covar nan
refused 2 '--covariance' "$rows" -k 4 --algorithm kmeans --covariance full
refused 2 '--n-init 0: must be 1 or more' "$rows" -k 4 --n-init 0
refused 2 'a sample of 1000000 rows asked for' "$rows" -k 4 --train-rows=1M
refused 2 'weights are read from' "$rows" -k 4 --weights w
refused 2 'neither kmeans++, kmeans-parallel' "$rows" -k 4 --init kmeans-paralel
counts="1 3"
refused 2 '--host-memory' "$rows" -k 4 --residency host --host-memory 1MiB
refused 2 'no_folder' "$rows" -k 4 --log-json no_folder/log
refused 2 'no_folder' "$rows" -k 4 --checkpoint no_folder/model.ckpt
refused 2 'synth:' synth:n=1000,d=4,k=2,colour=red -k 4
have_gpu || refused 1 '--backend cpu' "$rows" -k 4 --backend cuda

# ---- models to start from ----

"$FGMM" fit synth:n=3000,d=100,k=4 -k 4 --max-iter 1 -o start.h5 -q
"$FGMM" fit synth:n=3000,d=64,k=4 -k 4 --max-iter 1 -o other_dim.h5 -q
refused 2 'other_dim.h5: a model of dimension 64, but the rows have 100' "$rows" -k 4 --init other_dim.h5
refused 2 'start.h5: a model of 4 components, but -k is 5' "$rows" -k 5 --init start.h5
refused 2 'start.h5: a model for the metric l2' "$rows" -k 4 --init start.h5 --metric cosine
refused 2 'no_model.h5' "$rows" -k 4 --init no_model.h5
refused 2 'four.u8bin' "$rows" -k 4 --init four.u8bin
head -c 3000 start.h5 >cut.h5
refused 2 'cut.h5: damaged' "$rows" -k 4 --init cut.h5
for offset in 3 9 30 511 512 700 2048 $(($(stat -c %s start.h5) - 1)); do
    cp start.h5 flipped.h5
    byte=$(od -An -tu1 -j "$offset" -N1 start.h5)
    put "$offset" "\\x$(printf %x $((byte ^ 16)))" flipped.h5
    status "$FGMM" fit "$rows" -k 4 --init flipped.h5 -o made/model.h5
    [ "$got" = 2 ] || fail "a start with byte $offset flipped: exit status $got: $(cat err)"
    grep '^fgmm: fit: flipped.h5: damaged' err >/dev/null || fail "a start with byte $offset flipped: $(cat err)"
    [ -z "$(ls -A made)" ] || fail "a start with byte $offset flipped: left behind $(ls -A made)"
done

# ---- what stood there before ----

cp start.h5 kept.h5
status "$FGMM" fit nan.fbin -k 4 -o kept.h5
[ "$got" = 2 ] || fail "a NaN gave the exit status $got"
cmp -s start.h5 kept.h5 || fail "a refused fit changed the model that was there"
[ "$(echo kept.h5*)" = kept.h5 ] || fail "a refused fit left behind $(echo kept.h5*)"

# ---- no space ----

status "$FGMM" fit "$rows" -k 4 --max-iter 2 -o logged.h5 --log-json /dev/full
[ "$got" = 0 ] || fail "a log that cannot be written ended the run: $(cat err)"
[ "$(grep -c 'warning: the JSON log cannot be written' err)" = 1 ] || fail "not one warning of the log: $(cat err)"

mkdir small
if mount -t tmpfs -o size=256k tmpfs small 2>/dev/null; then
    trap 'umount small' EXIT
    for ranks in 1 3; do
        for options in "" "--checkpoint-every 0"; do
            # shellcheck disable=SC2086 # several words or none
            status on $ranks fit "$rows" -k 400 --max-iter 3 -o small/model.h5 $options
            [ "$got" = 1 ] || fail "no space: exit status $got on $ranks ranks: $(cat err)"
            [ "$(grep -c '^fgmm: fit: small/model.h5.*[Nn]o space' err)" = 1 ] || fail "no word of no space: $(cat err)"
            [ -z "$(ls -A small)" ] || fail "no space: left behind $(ls -A small)"
        done
    done
else
    echo "no file system of 256 KiB could be mounted: the part on missing space was left out"
fi
