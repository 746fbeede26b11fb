# shellcheck shell=bash disable=SC2034,SC2012
# common.sh: what the campaign scripts share; sourced. $kdc: the command; $work: a folder that is removed at the end;
# $data: an unpaired data set in it, of the photographs that ship with kdc.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
kdc=${KDC:-$root/build/kdc}
work=$(mktemp -d)
data=$work/data
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$work/cache} OMP_WAIT_POLICY=passive

mkdir -p "$data"/{trainA,trainB}
i=0
for f in "$root"/models/data/photos/train/*.jpg; do
    i=$((i + 1))
    ln -s "$f" "$data/train$([ $((i % 2)) -eq 0 ] && echo A || echo B)/"
done

# The tensors of two safetensors files, bit for bit: names, types, shapes (the header without __metadata__) and data. A summary
# when they differ.
same_tensors() {
    cmp -s "$1" "$2" && return 0
    local n m
    n=$(od -An -t u8 -N 8 "$1" | tr -d ' ') m=$(od -An -t u8 -N 8 "$2" | tr -d ' ')
    local strip='s/"__metadata__":{[^}]*},\{0,1\}//'
    if [ "$(head -c $((8 + n)) "$1" | tail -c "$n" | sed "$strip")" != "$(head -c $((8 + m)) "$2" | tail -c "$m" | sed "$strip")" ]; then
        echo "names or shapes differ"
        return 1
    fi
    cmp <(tail -c +$((9 + n)) "$1") <(tail -c +$((9 + m)) "$2")
}

# Losses by step, as log.jsonl has them, without what depends on time.
losses() {
    sed 's/"ts":[^,]*,//; s/"images_per_s":[^,]*,//' "$1/log.jsonl"
}

newest() {
    ls "$1"/checkpoint-*.safetensors 2>/dev/null | tail -n 1
}
