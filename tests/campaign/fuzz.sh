#!/usr/bin/env bash
# Fuzzes every parser with libFuzzer under AddressSanitizer and UBSan, from the files of the tree.
#
#   tests/campaign/fuzz.sh [SECONDS [TARGET...]]      60 seconds each; targets: image safetensors pth npz log kd graph loops
#
# A line a target, counts last. What it finds stays in the folder it names.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(image safetensors pth npz log kd graph loops)
work=${TMPDIR:-/tmp}/kdc-fuzz
build=build-fuzz
mkdir -p "$work"
cmake -S . -B $build -G Ninja -DCMAKE_C_COMPILER=clang-19 -DCMAKE_C_FLAGS="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=function" \
    -DCMAKE_EXE_LINKER_FLAGS="-fsanitize=address,undefined" >"$work/build.log" 2>&1 &&
    ninja -C $build kd_host kd_lang kd_ir >>"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; exit 1; }
libraries=($build/libkd_lang.a $build/libkd_host.a $build/libkd_ir.a)
read -ra flags <<<"$(pkg-config --libs libpng libjpeg libzip jansson lapacke)"

seeds() { # TARGET FOLDER
    case $1 in
    image) cp tests/runtime/images/*.{png,jpg} "$2" ;;
    safetensors) find tests -name '*.safetensors' -size -64k -exec cp {} "$2" \; ;;
    pth) cp tests/golden/pth/*.pth "$2" ;;
    npz) cp tests/golden/metrics/*.npz "$2" ;;
    log) printf '{"ts":1.5,"step":1,"epoch":1,"images_per_s":3.0,"loss":{"a":0.5,"b":null}}\n' >"$2/one" ;;
    kd) find models tests/lang frontend/lang -name '*.kd' -exec cp {} "$2" \; ;;
    graph) find tests -name '*.kir' -exec cp {} "$2" \; ;;
    loops) find tests -name '*.kl*' -exec cp {} "$2" \; ;;
    esac
}

passed=0 failed=0
for target in "${targets[@]}"; do
    folder=$work/$target
    rm -rf "$folder"
    mkdir -p "$folder/seeds" "$folder/found"
    seeds "$target" "$folder/seeds"
    clang-19 -g -O1 -I. "-DFUZZ_${target^^}" -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -fno-sanitize=function \
        tests/campaign/fuzz.c "${libraries[@]}" "${flags[@]}" -lm -lpthread -o "$folder/fuzz" || exit 1
    if "$folder/fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -max_len=100000 -artifact_prefix="$folder/found/" \
        "$folder/seeds" >"$folder/log" 2>&1; then
        passed=$((passed + 1))
        printf '%-12s %s\n' "$target" "$(tail -n 1 "$folder/log")"
    else
        failed=$((failed + 1))
        printf '%-12s FAILED: see %s\n' "$target" "$folder/log"
    fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
