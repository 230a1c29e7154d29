#!/usr/bin/env bash
# synth, convert and info: rows survive every format, one rank or several write the same bytes, and each bad input is one clear line.

# refused TEXT ARGUMENTS...: exit status 2, one line of ours that says TEXT, and no output left behind.
refused() {
    local text=$1 got=0
    shift
    rm -f out.*
    "$FGMM" "$@" >out.txt 2>err.txt || got=$?
    [ "$got" = 2 ] || { echo "fgmm $*: exit status $got, not 2"; cat err.txt; return 1; }
    [ "$(wc -l <err.txt)" = 1 ] || { echo "fgmm $*: not one line"; cat err.txt; return 1; }
    grep -qF -- "$text" err.txt || { echo "fgmm $*: no word of: $text"; cat err.txt; return 1; }
    [ "$(find . -name 'out.*' ! -name out.txt | wc -l)" = 0 ] || { echo "fgmm $*: left something behind"; ls; return 1; }
}
# says FILE LINE...: info prints these lines.
says() {
    local file=$1 line
    shift
    "$FGMM" info "$file" >info.txt
    for line in "$@"; do
        grep -qxF -- "$line" info.txt || { echo "info $file: no line: $line"; cat info.txt; return 1; }
    done
}

"$FGMM" synth n=3k,d=10,k=4,seed=3 a.fbin
"$FGMM" synth n=3k,d=10,k=4,seed=3,dtype=u8 a.u8bin
says a.fbin 'kind: rows (bin)' 'rows: 3000' 'dimension: 10' 'dtype: f32'
says synth:n=1G,d=8,k=2,dtype=i8 'rows: 1000000000' 'dtype: i8'
[ "$("$FGMM" synth --help | grep -c '^usage')" = 1 ]

# There and back again, through every format that holds f32 and u8.
for format in fvecs npy h5; do
    "$FGMM" convert -q a.fbin b.$format
    says b.$format 'rows: 3000' 'dimension: 10' 'dtype: f32'
    "$FGMM" convert -q b.$format back.fbin
    cmp a.fbin back.fbin
done
for format in bvecs npy h5; do
    "$FGMM" convert -q a.u8bin c.$format
    "$FGMM" convert -q c.$format back.u8bin
    cmp a.u8bin back.u8bin
done
"$FGMM" convert -q a.fbin d.f16bin
says d.f16bin 'dtype: f16'
"$FGMM" convert -q a.u8bin --dtype f32 e.npy
"$FGMM" convert -q e.npy back.u8bin
cmp a.u8bin back.u8bin
"$FGMM" convert synth:n=100,d=3,k=2,spread=2 clipped.u8bin 2>err.txt
grep -q 'warning: clipped.u8bin: .* values lay outside of u8 and were clipped' err.txt

# Ranges, several files, samples; any number of ranks.
"$FGMM" convert -q a.fbin first.fbin --rows :1000
"$FGMM" convert -q a.fbin rest.npy --rows 1k:
"$FGMM" convert -q first.fbin rest.npy whole.fbin
cmp a.fbin whole.fbin
"$FGMM" convert -q a.fbin sample.fbin --sample 100 --seed 7
says sample.fbin 'rows: 100'
$MPIRUN -n 3 "$FGMM" convert -q a.fbin sample3.fbin --sample 100 --seed 7
cmp sample.fbin sample3.fbin
$MPIRUN -n 3 "$FGMM" synth -q n=3k,d=10,k=4,seed=3 a3.fbin
cmp a.fbin a3.fbin
[ "$($MPIRUN -n 3 "$FGMM" info a.fbin | grep -c '^rows')" = 1 ]

# What else info tells.
"$FGMM" fit -q a.fbin -k 2 -o model.h5 --max-iter 1
says model.h5 'kind: model' 'hash: right' 'means: 2 x 10 float64' 'converged: no'
"$FGMM" build -q a.fbin model.h5 -o index.h5 >build.txt
says index.h5 'kind: index' 'hash: right' 'n_postings: 3000' 'model/algorithm: gmm' 'vectors: 3000 x 10 float32'
"$FGMM" groundtruth -q a.fbin sample.fbin -k 3 -o truth.ibin >truth.txt
says truth.ibin 'kind: neighbours' 'queries: 100' 'k: 3' 'distances: yes'

# Faults.
refused 'no such file' convert missing.fbin out.npy
refused 'no such file' info missing.h5
head -c 100 a.fbin >cut.fbin
refused 'truncated' convert cut.fbin out.npy
: >empty.npy
refused 'is empty' convert empty.npy out.fbin
echo 1,2 >rows.csv
refused 'unknown format' convert rows.csv out.fbin
refused 'unknown format' convert a.fbin out.csv
refused 'this format holds f32' convert a.fbin out.fvecs --dtype u8
refused 'add dtype=u8 to the spec' synth n=10,d=2,k=1 out.u8bin
refused 'no key colour' synth n=10,d=2,k=1,colour=3 out.fbin
refused 'must agree' convert a.fbin a.u8bin out.npy
refused 'there are 3000 rows' convert a.fbin out.fbin --sample 4k
refused 'the folder nowhere cannot be used' convert a.fbin nowhere/out.fbin
refused 'an input and an output are needed' convert a.fbin
printf '\1\0\0\0\2\0\0\0\0\0\200\77\0\0\300\177' >nan.fbin
refused 'nan.fbin: row 0 holds a NaN (column 1)' convert nan.fbin out.npy
printf '\1\0\0\0\1\0\0\0\0\0\200\110' >large.fbin
refused 'too large for f16' convert large.fbin out.f16bin
head -c 700 b.h5 >damaged.h5
tail -c +702 b.h5 >>damaged.h5
refused 'damaged' info damaged.h5

# A disk without room: exit status 1 and nothing under the output's name.
got=0
(ulimit -f 50000; trap '' XFSZ; "$FGMM" synth n=100M,d=10,k=4 big.npy 2>err.txt) || got=$?
[ "$got" = 1 ] || { echo "no space: exit status $got"; cat err.txt; exit 1; }
grep -q 'big.npy: needs' err.txt
[ "$(find . -name 'big.npy*' | wc -l)" = 0 ]
