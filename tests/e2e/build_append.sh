#!/usr/bin/env bash
# build --append: an index and further rows make the file that a build over all rows at once makes, byte for byte, on any ranks, for
# every rule that looks at a row alone; with ids of one's own, ids alone, and after a full disk. What does not fit is refused.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"

data=$FGMM_TEST_DATA/passages-10k.fbin
"$FGMM" fit "$data" -k 40 --max-iter 4 -o model.h5 -q
"$FGMM" convert "$data" first.fbin --rows :6300 >/dev/null # neither is whole blocks of rows
"$FGMM" convert "$data" second.fbin --rows 6300:9000 >/dev/null
"$FGMM" convert "$data" third.fbin --rows 9000: >/dev/null

# agrees NAME OPTIONS...: built at once, and in three steps on 1, 3 and 2 ranks.
agrees() {
    local name=$1
    shift
    "$FGMM" build "$data" model.h5 -o whole.h5 "$@" >/dev/null
    "$FGMM" build first.fbin model.h5 -o 1.h5 "$@" >/dev/null
    on 3 build second.fbin --append 1.h5 -o 2.h5 --residency stream --tile-rows 1k --window 300KiB --log-json log.json >/dev/null
    all_held_rows log.json 3
    on 2 build third.fbin --append 2.h5 -o 3.h5 --threads 2 >out
    grep -q '^postings .* 40 lists' out && grep -q '^seconds .*copy' out || fail "$name: the summary says $(cat out)"
    cmp whole.h5 3.h5 || fail "$name: appended rows make another index"
}
agrees hard
agrees tau --assign tau --tau 0.05 --max-lists 3
agrees soar --assign soar --lambda 1
agrees closure --assign closure --epsilon 0.2 --vectors no

# Sketches keep the axes of the first rows, so that those of old rows stay what they are; all else agrees.
"$FGMM" build "$data" model.h5 -o whole.h5 --sketch 8 >/dev/null
"$FGMM" build first.fbin model.h5 -o 1.h5 --sketch 8 >/dev/null
on 3 build second.fbin third.fbin --append 1.h5 -o 2.h5 >/dev/null
on 2 build second.fbin third.fbin --append 1.h5 -o other.h5 >/dev/null
cmp 2.h5 other.h5 || fail "sketches differ on 2 and 3 ranks"
"$H5SAME" whole.h5 2.h5 sketch || fail "an index with sketches differs in more than them"
[ "$("$H5GET" 1.h5 sketch/basis | cksum)" = "$("$H5GET" 2.h5 sketch/basis | cksum)" ] || fail "the axes of the sketches changed"

# A rule whose parameter a replication found goes on with that parameter.
"$FGMM" build first.fbin model.h5 -o 1.h5 --assign soar --replication 1.4 >/dev/null
"$FGMM" build second.fbin --append 1.h5 -o 2.h5 >/dev/null
on 3 build second.fbin --append 1.h5 -o other.h5 >/dev/null
cmp 2.h5 other.h5 || fail "appended rows make another index on 3 ranks"
[ "$("$H5GET" 1.h5 @soar_limit)" = "$("$H5GET" 2.h5 @soar_limit)" ] || fail "the limit of soar changed"
postings=$("$H5GET" 2.h5 @n_postings)
[ "$postings" -gt 11700 ] && [ "$postings" -lt 13500 ] || fail "$postings postings of 9000 rows: about 1.4 a row were asked for"

# ids of one's own
ids() { # FROM TO FILE: a header, then TO - FROM numbers
    # shellcheck disable=SC2059 # the format is the bytes
    printf "$(awk -v from="$1" -v to="$2" 'function bytes(n) { return sprintf("\\x%02x\\x%02x\\x00\\x00", n % 256, int(n / 256)) }
        BEGIN { printf "%s%s", bytes(to - from), bytes(1); for (i = from; i < to; i++) printf "%s%s", bytes(i), bytes(7) }')" >"$3"
}
ids 0 10000 all.i64bin
ids 0 6300 first.i64bin
ids 6300 10000 rest.i64bin
"$FGMM" build "$data" model.h5 -o whole.h5 --ids all.i64bin >/dev/null
"$FGMM" build first.fbin model.h5 -o 1.h5 --ids first.i64bin >/dev/null
on 2 build second.fbin third.fbin --append 1.h5 -o 2.h5 --ids rest.i64bin >/dev/null
cmp whole.h5 2.h5 || fail "appended rows with ids make another index"

# Without space once all lists are known: what was found is kept.
"$FGMM" build first.fbin model.h5 -o hard.h5 >/dev/null
many=synth:n=100k,d=100,k=5,seed=1
"$FGMM" build first.fbin $many model.h5 -o whole.h5 >/dev/null
(ulimit -f 32768 && trap '' XFSZ && status on 1 build $many --append hard.h5 -o full.h5 && [ "$got" = 1 ] && grep -q 'no space left' err) ||
    fail "a full disk: $(cat err)"
status on 3 build $many --append hard.h5 -o full.h5 --resume
[ "$got" = 0 ] && grep -q 'with the lists of all rows' err && cmp whole.h5 full.h5 || fail "resumed: $got, $(cat err)"
status on 2 build $many --append hard.h5 -o full.h5 --resume
[ "$got" = 0 ] && grep -q 'already whole' err || fail "--resume of a whole index: $got, $(cat err)"
[ "$(echo full.h5*)" = full.h5 ] || fail "left behind: $(echo full.h5*)"

# refused WORDS ARGUMENTS...
refused() {
    local words=$1
    shift
    status on 2 build "$@" -o refused.h5
    [ "$got" = 2 ] && [ "$(grep -c '^fgmm: build: ' err)" = 1 ] && grep -q "$words" err || fail "not refused with \`$words\`: $got, $(cat err)"
    ! ls refused* >/dev/null 2>&1 || fail "left behind: $(ls refused*)"
}
refused 'needs data' --append hard.h5
refused 'leave them out' second.fbin --append hard.h5 --assign tau
refused 'ids of your own' second.fbin --append 1.h5
refused 'dimension' synth:n=100,d=7,k=2 --append hard.h5
refused 'of type u8' synth:n=100,d=100,k=2,dtype=u8 --append hard.h5
refused 'not an index' second.fbin --append model.h5
"$FGMM" build first.fbin model.h5 -o need.h5 --assign need --replication 1.1 >/dev/null
refused 'depend on all rows' second.fbin --append need.h5
size=$(stat -c %s hard.h5)
printf '\x55\x55\x55' | dd of=hard.h5 bs=1 seek=$((size - 1000000)) conv=notrunc status=none
refused 'hard.h5: damaged: the vectors of list' second.fbin --append hard.h5
