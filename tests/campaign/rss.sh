#!/usr/bin/env bash
# rss.sh: peak resident memory of `kdc train` (VmHWM, as the kernel counts) against the plan it prints, for sessions of different
# kinds and sizes: at most 1.25 times the plan. Fresh kernel cache (with compiling) and filled one.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ -x /usr/bin/time ] || { echo "rss.sh needs /usr/bin/time (Debian package time)" >&2; exit 3; }
recipes=$root/models/recipes photos=$root/models/data/photos/train good=0 bad=0

mkdir -p "$work/pairs"/{A,B}/train # a paired set: each photograph and itself
for f in "$photos"/*.jpg; do
    ln -s "$f" "$work/pairs/A/train/"
    ln -s "$f" "$work/pairs/B/train/"
done

# FILE DATA STEPS [options]
measure() {
    local file=$1 from=$2 steps=$3 folder=$work/run
    shift 3
    rm -rf "$folder"
    /usr/bin/time -f 'rss %M' "$kdc" train "$file" --data "$from" --steps "$steps" --seed 1 --out "$folder" "$@" \
        >"$work/log" 2>&1 || { cat "$work/log"; bad=$((bad + 1)); return; }
    local plan peak
    plan=$(sed -n 's/^ *memory *\([0-9.]*\) MiB:.*/\1/p' "$work/log")
    peak=$(sed -n 's/^rss //p' "$work/log")
    if awk -v plan="$plan" -v peak="$peak" -v what="$(basename "$file" .kd) $*" 'BEGIN {
            r = peak / 1024 / plan
            printf "%s: plan %.0f MiB, peak %.0f MiB, ratio %.2f\n", what, plan, peak / 1024, r
            exit !(r <= 1.25 && r > 0) }'; then
        good=$((good + 1))
    else
        bad=$((bad + 1))
    fi
}

for cache in fresh filled; do
    echo "kernel cache: $cache"
    measure "$here/all.kd" "$data" 40
    measure "$recipes/distill_style.kd" "$photos" 12 --weights "T=$root/models/data/wave.safetensors"
    measure "$recipes/distill_style.kd" "$photos" 4 -D size=256 -D batch=2 --weights "T=$root/models/data/wave.safetensors"
    measure "$recipes/pix2pix_facades.kd" "$work/pairs" 12
    measure "$recipes/pix2pix.kd" "$work/pairs" 2
    measure "$recipes/cyclegan_day2night.kd" "$data" 4
done
echo "$good within 1.25 of the plan, $bad not"
[ $bad -eq 0 ]
