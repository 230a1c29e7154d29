#!/usr/bin/env bash
# Includes point downward only, vendor headers stay behind their fences, and MPI_Abort stands in one place.
cd "$FGMM_SOURCE"
faults=0
fault() {
    echo "$*"
    faults=1
}

# A folder may include itself, its neighbours of the same level, and those of lower levels.
declare -A level=([base]=0 [comm]=1 [device]=1 [io]=2 [data]=3 [model]=3 [backend]=4 [init]=5 [em]=5 [ivf]=5
    [checkpoint]=6 [export]=6 [eval]=6 [fit]=7 [cmd]=8)

folders=(src)
[ -d kernels ] && folders+=(kernels)
sources() { find "${folders[@]}" -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh'; }

checked=0
while IFS=: read -r file line target; do
    from=${file#src/}
    from=${from%%/*}
    to=${target%%/*}
    case $to in fgmm | fgmm.h) continue ;; esac
    case $file in
    src/main.c) continue ;;
    kernels/*)
        [ "$to" = kernels ] || [ "$to" = base ] || fault "$file:$line: kernels include base/ and kernels/ alone, not $target"
        ;;
    *)
        if [ "$to" = kernels ]; then
            [ "$from" = backend ] || fault "$file:$line: only backend/ knows kernels/"
            continue
        fi
        above=${level[$from]:-} below=${level[$to]:-}
        if [ -z "$above" ]; then
            fault "$file: the folder $from has no place among the layers"
        elif [ -z "$below" ]; then
            fault "$file:$line: $target is no header of a layer"
        elif [ "$below" -gt "$above" ]; then
            fault "$file:$line: $from/ includes upward: $target"
        fi
        ;;
    esac
    checked=$((checked + 1))
done < <(sources | xargs grep -n '^ *# *include *"' | sed -E 's/^([^:]*):([0-9]+):[^"]*"([^"]*)".*/\1:\2:\3/')
[ "$checked" -gt 20 ] || fault "only $checked includes were found: the search is broken"

# fence HEADERS PLACES: a vendor's headers are named in these files alone.
fence() {
    while IFS= read -r file; do
        [[ $file =~ ^($2) ]] || fault "$file: includes $1, which belongs to $2"
    done < <(sources | xargs grep -lE "# *include *<($1)" || true)
}
fence 'nccl\.h' 'src/comm/nccl'
fence 'hdf5\.h|H5' 'src/io/|src/checkpoint/|src/model/model_file|src/ivf/index_file'
fence 'cuda|cublas|cub/' 'src/device/|src/backend/cuda|src/comm/nccl|kernels/'

# The public headers speak of no vendor but MPI.
if grep -rnE '# *include *[<"](cuda|nccl|hdf5|cblas|cjson)' include; then
    fault "a public header includes a vendor's header"
fi

aborts=$({ grep -rlE '\bMPI_Abort *\(' src || true; } | sort | tr '\n' ' ')
[ "$aborts" = "src/comm/comm.c " ] || fault "MPI_Abort is called in: $aborts"

exit $faults
