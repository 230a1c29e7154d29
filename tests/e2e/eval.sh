#!/usr/bin/env bash
# What eval tells of an index is what build and search tell of it, to the digit, for fixed numbers of lists and for the learnt stop; its
# report has the same bytes on any number of ranks; the index is gone afterwards; what cannot be done is said in one line.
# shellcheck source=../support/e2e.sh
. "$FGMM_SOURCE/tests/support/e2e.sh"
queries=$FGMM_TEST_DATA/passages-queries.fbin
data=data.fbin # an evaluation builds many indexes and searches each by all of its lists

"$FGMM" convert "$FGMM_TEST_DATA/passages-10k.fbin" $data --rows 0:4000 -q
"$FGMM" fit $data -k 32 --algorithm kmeans --max-iter 4 -o kmeans.h5 -q >/dev/null
"$FGMM" fit $data -k 32 --max-iter 4 -o gmm.h5 -q >/dev/null
"$FGMM" convert "$queries" train.fbin --rows 0:100 -q
"$FGMM" convert "$queries" test.fbin --rows 100:200 -q
"$FGMM" groundtruth $data test.fbin -k 100 -o truth.ibin >/dev/null

# ---- the same bytes on any ranks, and the shape of the report ----
evaluate=(eval $data test.fbin --train-queries train.fbin --models gmm.h5,kmeans.h5 --rules hard,tau,soar --replication 1,1.5
    --probe-by centroid,posterior --sketch 8 --resamples 200)
"$FGMM" "${evaluate[@]}" --repeats 0 -o one >table
on 3 "${evaluate[@]}" --repeats 0 -o three --log-json log --residency stream --tile-rows 1k >table3
all_held_rows log 3
for file in .csv -costs.csv .json; do
    cmp one$file three$file || fail "one$file differs on 3 ranks"
done
cmp table table3 || fail "the table differs on 3 ranks"
[ ! -e one-index.h5 ] && [ ! -e three-index.h5 ] || fail "the last index is still there"
# k-means: hard and soar; the mixture: hard, tau and soar in two orders; each with two ways of stopping, without and with sketches.
[ "$(grep -cE '(centroid|posterior) +(fixed|learnt)' table)" = 32 ] || fail "not 32 curves: $(cat table)"
[ "$(sed -n 3p table | awk '{ print $1, $2 }')" = "model rule" ] || fail "no head: $(cat table)"
awk -F, 'NR > 1 && $1 == "\"kmeans.h5\"" && $3 == "hard" && $7 == "fixed" && $8 == 0 && $17 $18 $19 != "1.00001.00001.0000" { exit 1 }' one-costs.csv ||
    fail "the reference is not 1: $(cat one-costs.csv)"
# An interval holds its ratio, and is one: neither a point nor everything.
awk -F, 'NR > 1 && !($7 == "fixed" && $3 == "hard" && $8 == 0 && $1 == "\"kmeans.h5\"") && $18 != "" {
        n++; if (!($18 <= $17 && $17 <= $19 && $18 < $19 && $19 < 3 * $18)) { print; bad = 1 } }
    END { exit bad || n < 60 }' one-costs.csv || fail "intervals make no sense"

# What the mixture brings under the same rule is told for its lists, and is the quotient of what both cost.
awk -F, 'NR > 1 { key = $3 "," $4 "," $7 "," $8 "," $10
        if ($1 == "\"kmeans.h5\"") { bad = bad || $23 != ""; kmeans[key] = $15 } else { line[++n] = key "," $15 "," $23 "," $24 "," $25 } }
    END { for (i = 1; i <= n; i++) { split(line[i], f, ","); key = f[1] "," f[2] "," f[3] "," f[4] "," f[5]
            if (kmeans[key] == "" || f[6] == "") { bad = bad || f[7] != ""; continue }
            if (f[7] - kmeans[key] / f[6] > 0.0002 || kmeans[key] / f[6] - f[7] > 0.0002 || (f[8] != "" && !(f[8] < f[7] && f[7] < f[9]))) {
                print line[i]; bad = 1 }
            told++ }
        exit bad || told < 30 }' one-costs.csv || fail "models under the same rule: $(cut -d, -f1,3-10,15,23-25 one-costs.csv)"

for file in one.csv one-costs.csv; do
    [ -z "$(head -n 1 $file | tr ',' '\n' | sort | uniq -d)" ] || fail "$file: a column is there twice: $(head -n 1 $file)"
done

# ---- beside build and search ----
# column FILE NAME: the number of the column of that name.
column() { head -n 1 "$1" | tr ',' '\n' | grep -n "^$2\$" | cut -d: -f1; }
# curve MODEL RULE ORDER STOP SKETCH: lines of one.csv as setting,recall@10,recall@100,scanned,distinct,computed.
curve() {
    awk -F, -v model="\"$1\"" -v rule="$2" -v order="$3" -v stop="$4" -v sketch="$5" '$1 == model && $3 == rule && $6 == order && $7 == stop &&
        $8 == sketch { print $10 "," $12 "," $13 "," $15 "," $16 "," $17 }' one.csv
}
[ "$(column one.csv 'recall@10')" = 12 ] && [ "$(column one.csv computed)" = 17 ] || fail "columns moved: $(head -n 1 one.csv)"
# computed FILE LINE: what a search of an index with sketches of 8 of 100 coordinates costs, the query's own sketch too: full,sketches
# are its last fields.
computed() { sed -n "$2p" "$1" | awk -F, '{ printf "%.3f", $(NF - 1) + $NF * 9 / 100 + 8 }'; }
# near A B: to the rounding of what files hold.
near() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && b != "" && a - b < 0.003 && b - a < 0.003) }'; }
# beside MODEL RULE ORDER OPTIONS...: an index built and searched by hand.
beside() {
    local model=$1 rule=$2 order=$3 line
    shift 3
    "$FGMM" build $data "$model" -o index.h5 --assign "$rule" --sketch 8 "$@" >/dev/null
    "$FGMM" search index.h5 test.fbin --probe-by "$order" --nprobe 1,3,8,32 --groundtruth truth.ibin --csv ten.csv >/dev/null
    "$FGMM" search index.h5 test.fbin --probe-by "$order" --nprobe 1,3,8,32 -k 100 --groundtruth truth.ibin --csv hundred.csv >/dev/null
    curve "$model" "$rule" "$order" fixed 0 >curve.csv
    curve "$model" "$rule" "$order" fixed 8 >skimmed.csv
    for line in 2 3 4 5; do
        local nprobe recall hundred scanned distinct
        IFS=, read -r nprobe recall scanned distinct _ < <(sed -n ${line}p ten.csv)
        hundred=$(sed -n ${line}p hundred.csv | cut -d, -f2)
        grep -q "^$nprobe,$recall,$hundred,$scanned,$distinct,$distinct\$" curve.csv ||
            fail "$model $rule $order: search says $nprobe,$recall,$hundred,$scanned,$distinct, eval: $(grep "^$nprobe," curve.csv)"
        near "$(computed ten.csv $line)" "$(sed -n "s/^$nprobe,$recall,$hundred,$scanned,$distinct,//p" skimmed.csv)" ||
            fail "$model $rule $order: with sketches $nprobe lists cost $(computed ten.csv $line), eval: $(grep "^$nprobe," skimmed.csv)"
    done
    "$FGMM" search index.h5 train.fbin --probe-by "$order" --learn-stop >/dev/null
    "$FGMM" search index.h5 test.fbin --recall-target 0.8,0.9,0.95,0.98,0.99 --groundtruth truth.ibin --csv rule.csv >/dev/null
    curve "$model" "$rule" "$order" learnt 0 >curve.csv
    curve "$model" "$rule" "$order" learnt 8 >skimmed.csv
    for line in 2 3 4 5 6; do
        local target
        IFS=, read -r target _ recall scanned distinct _ < <(sed -n ${line}p rule.csv)
        grep -q "^[^,]*,$recall,[^,]*,$scanned,$distinct,$distinct\$" curve.csv ||
            fail "$model $rule $order: by the rule search says $target,$recall,$scanned,$distinct, eval: $(cat curve.csv)"
        near "$(computed rule.csv $line)" "$(sed -n "s/^[^,]*,$recall,[^,]*,$scanned,$distinct,//p" skimmed.csv | head -n 1)" ||
            fail "$model $rule $order: with sketches target $target costs $(computed rule.csv $line), eval: $(cat skimmed.csv)"
    done
}
beside kmeans.h5 hard centroid
beside gmm.h5 tau centroid --replication 1.5
beside gmm.h5 soar posterior --replication 1.5
[ "$(sed -n 2p one.csv | cut -d, -f1-9)" = '"kmeans.h5",kmeans,hard,1,1.000000,centroid,fixed,0,32' ] || fail "the first curve: $(sed -n 2p one.csv)"
storage=$("$FGMM" build $data gmm.h5 -o index.h5 --assign soar --replication 1.5 | sed -n 's/^replication *\([0-9.]*\) .*/\1/p')
grep -q "^\"gmm.h5\",gmm,soar,1.5,$storage," one.csv || fail "storage $storage is not told"

# ---- centroids found by sketches of theirs: eval's own searches, which it checks, and search tell the same numbers ----
coarse=(eval $data test.fbin --train-queries train.fbin --groundtruth truth.ibin --models kmeans.h5 --rules soar --replication 1.5 --sketch 8
    --centroid-sketch 6 --resamples 50)
"$FGMM" "${coarse[@]}" -o coarse >table
[ "$(grep -c 'sketch 6 ' table)" = 8 ] && [ "$(grep -cE '^[a-z].* all ' table)" = 8 ] || fail "not each curve twice: $(cat table)"
on 3 "${coarse[@]}" --repeats 0 -o coarse3 >/dev/null
cmp <(cut -d, -f1-17,19 coarse.csv) <(cut -d, -f1-17,19 coarse3.csv) || fail "curves by sketches of centroids differ on 3 ranks"
"$FGMM" build $data kmeans.h5 -o index.h5 --assign soar --replication 1.5 >/dev/null
"$FGMM" search index.h5 train.fbin --learn-stop >/dev/null
# told_by_eval STOP RECALL SCANNED: distances to centroids, all and by sketches.
told_by_eval() {
    awk -F, -v stop="$1" -v recall="$2" -v scanned="$3" '$3 == "soar" && $7 == stop && $8 == 0 && $12 == recall && $15 == scanned {
        if ($19 == 6) sketched = $9; else all = $9 } END { print all, sketched }' coarse.csv
}
for setting in "fixed --nprobe 1,4,16" "learnt --recall-target 0.8,0.95"; do
    read -r stop option list <<<"$setting"
    "$FGMM" search index.h5 test.fbin "$option" "$list" --groundtruth truth.ibin --csv all.csv -o all.h5 >/dev/null
    "$FGMM" search index.h5 test.fbin "$option" "$list" --groundtruth truth.ibin --centroid-sketch 6 --csv sketched.csv -o sketched.h5 >/dev/null
    cmp all.h5 sketched.h5 || fail "$setting: other neighbours with --centroid-sketch"
    while IFS=, read -r -a field; do
        [ "$stop" = fixed ] || field=("${field[0]}" "${field[@]:2}")
        read -r every found < <(told_by_eval "$stop" "${field[1]}" "${field[2]}")
        [ "$every" = 32 ] && near "$found" "${field[5]}" ||
            fail "$setting: search says ${field[*]}, eval $(told_by_eval "$stop" "${field[1]}" "${field[2]}")"
    done < <(sed 1d sketched.csv)
done

# ---- every query judged by what the others teach: as the two halves by themselves ----
"$FGMM" groundtruth $data train.fbin -k 100 -o train-truth.ibin >/dev/null
halves=(--max-probes 12 --models kmeans.h5 --rules soar --replication 1.5 --resamples 50 --repeats 0)
"$FGMM" eval $data test.fbin --train-queries train.fbin --groundtruth truth.ibin "${halves[@]}" -o there >/dev/null
"$FGMM" eval $data train.fbin --train-queries test.fbin --groundtruth train-truth.ibin "${halves[@]}" -o back >/dev/null
"$FGMM" eval $data test.fbin --train-queries train.fbin --groundtruth truth.ibin "${halves[@]}" --cross -o cross >table
! grep -q 'cheapest in training' table || fail "chosen by queries that are judged: $(cat table)"
# Settings that all three have: numbers of lists, and the grid of thresholds but for those learnt.
awk -F, 'FNR == 1 { file++; next } { key = $3 "," $7 "," $10 } file == 1 { r[key] = $12; d[key] = $15 } file == 2 && key in r {
        r[key] = (r[key] + $12) / 2; d[key] = (d[key] + $15) / 2; both[key] = 1 }
    file == 3 && key in both { n++; learnt += $7 == "learnt"; if ((r[key] - $12) ^ 2 > 1e-11 || (d[key] - $15) ^ 2 > 1e-5) { print; bad = 1 } }
    END { exit bad || learnt < 120 || n < learnt + 20 }' there.csv back.csv cross.csv || fail "--cross is not both halves"

# ---- a share to learn from, times, true neighbours computed or given ----
small=(eval $data "$queries" --models kmeans.h5 --rules soar,need --replication 1.5 --resamples 50)
"$FGMM" "${small[@]}" -o share >table
grep -q '100 queries judged, 100 to learn from' table || fail "no even share: $(cat table)"
awk -F, 'NR > 1 && $18 != "" { n++; if (!($18 > 0)) exit 1 } END { exit n < 10 }' share.csv || fail "no times: $(head share.csv)"
awk -F, 'NR > 1 && $14 != "" && !($16 > 0) { exit 1 }' share-costs.csv || fail "no times at a recall: $(cat share-costs.csv)"
"$FGMM" groundtruth $data "$queries" -k 10 -o ten.ibin >/dev/null
"$FGMM" "${small[@]}" --repeats 0 --groundtruth ten.ibin -o given >/dev/null
"$FGMM" "${small[@]}" --repeats 0 -o computed >/dev/null
cmp given-costs.csv computed-costs.csv || fail "given and computed neighbours differ"
cmp <(cut -d, -f1-12,14-17 given.csv) <(cut -d, -f1-12,14-17 computed.csv) || fail "given and computed neighbours differ"
[ -z "$(cut -d, -f13 given.csv | sed 1d | tr -d '\n')" ] || fail "a recall@100 of ten neighbours"

"$FGMM" build $data kmeans.h5 -o index.h5 --assign need --replication 1.5 >/dev/null
"$FGMM" search index.h5 "$queries" --nprobe 4 --csv four.csv >/dev/null
need=$(awk -F, '$3 == "need" && $7 == "fixed" && $10 == 4 { print $15 }' computed.csv)
awk -F, -v half="$need" 'NR == 2 { exit !(half > 0.8 * $3 && half < 1.25 * $3) }' four.csv || fail "need: eval says $need, search $(cat four.csv)"

# ---- what cannot be done ----
# refused STATUS WORDS ARGUMENTS...
refused() {
    local want=$1 words=$2
    shift 2
    status "$FGMM" "$@"
    [ $got = "$want" ] || fail "status $got instead of $want: fgmm $*: $(cat err)"
    [ "$(grep -c '^fgmm: ' err)" = 1 ] && grep -q -e "$words" err || fail "not one line with \`$words\`: fgmm $*: $(cat err)"
    [ ! -e none.csv ] && [ ! -e none.json ] && [ ! -e none-index.h5 ] || fail "something was left: fgmm $*"
}
refused 2 'needs --models' eval $data test.fbin -o none
refused 2 'needs -o' eval $data test.fbin --models gmm.h5
refused 2 'no such rule' eval $data test.fbin --models gmm.h5 --rules soft -o none
refused 2 'is there twice' eval $data test.fbin --models gmm.h5,gmm.h5 -o none
refused 2 'a word is missing' eval $data test.fbin --models gmm.h5 --rules hard,,tau -o none
refused 2 'not a number from 1' eval $data test.fbin --models gmm.h5 --replication 0.5 -o none
refused 2 'not centroid or posterior' eval $data test.fbin --models gmm.h5 --probe-by luck -o none
refused 2 'between 0 and 1' eval $data test.fbin --models gmm.h5 --train-share 1 -o none
refused 2 'one of the queries to be judged' eval $data "$queries" --models gmm.h5 --train-queries train.fbin -o none
refused 2 'neighbours of 200 queries, not of 100' eval $data test.fbin --models gmm.h5 --groundtruth ten.ibin -o none
refused 2 'dimension of the rows' eval $data test.fbin --models gmm.h5 --sketch 101 -o none
refused 2 'centroid-sketch 101: must be 0 to the dimension' eval $data test.fbin --models gmm.h5 --centroid-sketch 101 -o none
refused 2 'centroid-sketch 101: must be 0 to the dimension' search index.h5 test.fbin --centroid-sketch 101
refused 2 'not --probe-by posterior' search index.h5 test.fbin --centroid-sketch 4 --probe-by posterior
refused 2 'leave it out' search index.h5 test.fbin --centroid-sketch 4 --learn-stop
refused 2 'give --repeats 0' eval $data test.fbin --models gmm.h5 --cross -o none
refused 2 'goes by distances' eval $data test.fbin --models gmm.h5 --metric ip -o none
refused 2 'no-such.h5' eval $data test.fbin --models no-such.h5 -o none
refused 2 'the folder' eval $data test.fbin --models gmm.h5 -o nowhere/none
"$FGMM" synth n=200,d=7,k=2 other.fbin -q >/dev/null
refused 2 'dimension' eval $data other.fbin --models gmm.h5 -o none
refused 2 'dimension' eval other.fbin other.fbin --models gmm.h5 -o none

# ---- the plot, where matplotlib is ----
if have_python matplotlib; then
    "$python" "$FGMM_SOURCE/scripts/plot_eval" one -o plot.png
    [ "$(head -c 4 plot.png | tail -c 3)" = PNG ] || fail "no plot"
fi
