#!/bin/sh
# peers.sh: kdc beside PyTorch and ONNX Runtime, in alternating runs on this machine; one table in Markdown, on stdout
# and in a file. A development tool: not part of ./run test.
#
#   tests/bench/peers.sh [--rounds N] [--threads 1,2] [--only PATTERN] [--quick] [--busy] [--out FILE] [--fetch]
#
# PyTorch is Debian's python3-torch (PEERS_PYTHON: another Python that has it). ONNX Runtime is libonnxruntime.so.1 of
# the npm package onnxruntime-node, or any other: PEERS_ORT names the library, or the package's .tgz or folder. Without
# OpenBLAS PyTorch multiplies matrices with Debian's reference BLAS and is up to fifteen times slower: PEERS_BLAS is the
# folder of its libblas.so.3, where it is not installed. --fetch gets both, by `npm pack` and `apt-get download`, into
# PEERS_WORK (~/.cache/kdc-peers), where all other files go, too; nothing is installed. What is missing is left out, and
# the rows say so.
# kdc is built in PEERS_BUILD (build/), unless PEERS_NO_BUILD is set.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${PEERS_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/kdc-peers}
build=${PEERS_BUILD:-$root/build}
python=${PEERS_PYTHON:-/usr/bin/python3}
ort=${PEERS_ORT:-}
blas=${PEERS_BLAS:-}
package=onnxruntime-node@1.30.0
mkdir -p "$work"

# Leaves --fetch out of the arguments that peers.py gets.
fetch=
n=$#
while [ "$n" -gt 0 ]; do
    if [ "$1" = --fetch ]; then
        fetch=yes
    else
        set -- "$@" "$1"
    fi
    shift
    n=$((n - 1))
done

find_ort() { # of a folder
    find "$1" -path "*linux/$2*" -name 'libonnxruntime.so.1' 2>/dev/null | head -n 1
}

case $(uname -m) in
x86_64) arch=x64 ;;
*) arch=arm64 ;;
esac
if [ -z "$ort" ] && [ -n "$fetch" ]; then
    ort=$(ls "$work"/onnxruntime-node-*.tgz 2>/dev/null | head -n 1)
    [ -n "$ort" ] || ort=$work/$(cd "$work" && npm pack --silent $package)
fi
case $ort in
*.tgz)
    mkdir -p "$work/ort"
    [ -n "$(find_ort "$work/ort" $arch)" ] ||
        tar xzf "$ort" -C "$work/ort" "package/bin/napi-v6/linux/$arch/libonnxruntime.so.1"
    ort=$work/ort
    ;;
esac
[ -n "$ort" ] || ort=$work/ort
[ -f "$ort" ] || ort=$(find_ort "$ort" $arch)

if [ -z "$blas" ]; then
    if [ -n "$fetch" ] && [ ! -d "$work/blas" ]; then
        (cd "$work" && apt-get -q download libopenblas0-pthread > fetch.log 2>&1 &&
            dpkg -x libopenblas0-pthread_*.deb blas) || tail "$work/fetch.log" >&2
    fi
    blas=$(find "$work/blas" -name libblas.so.3 2>/dev/null | head -n 1)
    blas=${blas%/*}
fi

[ -f "$build/build.ninja" ] || cmake -S "$root" -B "$build" -G Ninja > /dev/null
[ -n "${PEERS_NO_BUILD:-}" ] || ninja -C "$build" kdc peers_step > "$work/build.log" 2>&1 || {
    tail -n 20 "$work/build.log" >&2
    exit 1
}
exec "$python" "$here/peers.py" --kdc "$build/kdc" --step "$build/tests/bench/peers_step" --python "$python" \
    --ort "$ort" --blas "$blas" --work "$work" "$@"
