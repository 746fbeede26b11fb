#!/usr/bin/env bash
# The trained generators of ../shared/data/styles: kdc's output against the reference computed by PyTorch, largest difference
# below 2e-2 on the 0..255 scale. Skipped where the data is not there. Reports like cmocka.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=../shared/data/styles
passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/check.kd" <<'KD'
import "nets/style.kd"

net Difference(x: [n, 3, h, w], y: [n, 3, h, w]) {
    let g = StyleGen[]
    return max(abs(g(x) - y))
}

let D = Difference[]
KD
for style in wave udnie; do
    if [ ! -e $data/$style.safetensors ]; then
        skipped=$((skipped + 1))
        continue
    fi
    line=$(build/kdc call "$work/check.kd:D" --in $data/$style.reference.safetensors --weights $data/$style.safetensors 2>&1)
    difference=$(sed -n 's/^out[^0-9]*\([0-9.e+-]*\).*/\1/p' <<<"$line")
    echo "$style: largest difference ${difference:-unknown}"
    if awk -v d="${difference:-1}" 'BEGIN { exit !(d + 0 > 0 && d + 0 < 0.02) }'; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$line"
    fi
done
printf '[  PASSED  ] %d test(s).\n' $passed
[ $skipped -gt 0 ] && printf '[  SKIPPED ] %d test(s)\n' $skipped
[ $failed -gt 0 ] && printf '[  FAILED  ] %d test(s)\n' $failed
[ $failed -eq 0 ]
