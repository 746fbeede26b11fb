#!/bin/sh
# peers.sh: kdc beside PyTorch and ONNX Runtime, in alternating runs on this machine; one table in Markdown, on stdout and
# in a file. A development tool: not part of ./run test.
#
#   tests/bench/peers.sh [--rounds N] [--threads 1,2] [--only PATTERN] [--quick] [--out FILE] [--fetch-ort]
#
# PyTorch is Debian's python3-torch (PEERS_PYTHON: another Python that has it). ONNX Runtime is libonnxruntime.so.1 of
# the npm package onnxruntime-node, or any other: PEERS_ORT names the library, or the package's .tgz or folder; --fetch-ort
# gets it by `npm pack`. What is missing is left out, and the rows say so. Files go to PEERS_WORK (~/.cache/kdc-peers);
# kdc is built in PEERS_BUILD (build/). Threads are as each program has them by default.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${PEERS_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/kdc-peers}
build=${PEERS_BUILD:-$root/build}
python=${PEERS_PYTHON:-/usr/bin/python3}
ort=${PEERS_ORT:-}
package=onnxruntime-node@1.30.0
mkdir -p "$work"

# Leaves --fetch-ort out of the arguments that peers.py gets.
fetch=
n=$#
while [ "$n" -gt 0 ]; do
    if [ "$1" = --fetch-ort ]; then
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
    [ -n "$(find_ort "$work/ort" $arch)" ] || tar xzf "$ort" -C "$work/ort" "package/bin/napi-v6/linux/$arch/libonnxruntime.so.1"
    ort=$work/ort
    ;;
esac
if [ -z "$ort" ]; then
    ort=$work/ort
fi
if [ -d "$ort" ]; then
    ort=$(find_ort "$ort" $arch)
fi

[ -f "$build/build.ninja" ] || cmake -S "$root" -B "$build" -G Ninja > /dev/null
[ -n "${PEERS_NO_BUILD:-}" ] || ninja -C "$build" kdc peers_step > "$work/build.log" 2>&1 || {
    tail -n 20 "$work/build.log" >&2
    exit 1
}
exec "$python" "$here/peers.py" --kdc "$build/kdc" --step "$build/tests/bench/peers_step" --python "$python" --ort "$ort" --work "$work" "$@"
