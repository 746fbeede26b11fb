#!/usr/bin/env bash
# UGC from pictures to an exported student: the flexible generator (stage 1); three searches in its space, for the student and for a wide and
# a deep teacher; online distillation with few labels (stage 2); measures on the test pictures; a library with a check of its bits.
#
#   tests/campaign/ugc.sh OUT FOLDER      FOLDER: aligned pairs (train, test), such as ../shared/data/facades/aligned
#
# What is done stays done: the same command goes on where it was stopped, within a stage too. In OUT: supernet, student, wide, deep (the
# searches), distilled, export, and summary.md. From the environment, with the values for 64x64 in brackets:
#
#   SIZE [64] MODEL [mobile] NGF [16, the largest one's] LABELLED [0.25] SEED [0] DIRECTION [BtoA] THREADS [1]
#   STEPS_1 [1500] STEPS_2 [3000] MACS [12M] TEACHER_MACS [45M] HOLD_OUT [40] POPULATION [20] GENERATIONS [10]
#
# The wide teacher is the best configuration with the fewest blocks, the deep one the best with all blocks, both within TEACHER_MACS
# [inferred]: what the one spends on depth, the other spends on width. MACs count transposed convolutions by their output (Tout).
# Needs ./run build; KDC is another binary. VGG16's weights (VGG=FILE) bring in the style and feature terms.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
kdc=${KDC:-$root/build/kdc}
recipes=$root/models/recipes
[ $# -eq 2 ] || { sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd) folder=$2
size=${SIZE:-64} model=${MODEL:-mobile} ngf=${NGF:-16} labelled=${LABELLED:-0.25} seed=${SEED:-0} threads=${THREADS:-1}
macs=${MACS:-12M} teacher_macs=${TEACHER_MACS:-45M} hold_out=${HOLD_OUT:-40}
data=(--data "$folder" --direction "${DIRECTION:-BtoA}")
common=(-D "size=$size" -D "model=$model" --threads "$threads")
if [ -n "${VGG:-}" ]; then vgg=(--weights "V=$VGG"); else vgg=(-D vgg=false); fi
least='[1,1,1]' most='[3,3,3]' calibrate=()     # depths, as nets/ugc_space.kd has them
if [ "$model" = unet ]; then
    calibrate=(--calibrate 20) # its batch norms have the statistics of all parts mixed
    levels=0
    for ((n = size; n % 2 == 0; n /= 2)); do levels=$((levels + 1)); done
    fewest=$((levels - 2 < 4 ? 4 : levels - 2))
    least="[$((fewest < levels ? fewest : levels))]" most="[$levels]"
fi

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

failed() {
    say "$1 failed; $out/$1.log ends with"
    tail -n 4 "$out/$1.log" >&2
    exit 1
}

# trained NAME STEPS ARGS...: the run folder $out/NAME, begun, gone on with, or left as it is
trained() {
    local name=$1 steps=$2
    shift 2
    [ -e "$out/$name.done" ] && return
    say "$name: $steps steps"
    if [ -e "$out/$name/kdc.json" ]; then set -- "$1" --resume; else set -- "$@" --seed "$seed" --hold-out "$hold_out"; fi
    "$kdc" train "$@" --steps "$steps" --out "$out/$name" --threads "$threads" 2>>"$out/$name.log" || failed "$name"
    touch "$out/$name.done"
}

# searched NAME MACS ARGS...: the best configuration of the supernet within MACs; its -D in $out/NAME.config
searched() {
    local name=$1 budget=$2 resume=()
    shift 2
    [ -e "$out/$name.config" ] && return
    say "$name: search within $budget MACs"
    [ -e "$out/$name/search.json" ] && resume=(--resume)
    "$kdc" search "$recipes/ugc_pix2pix_supernet.kd:Sub" --weights "$out/supernet:G" "${data[@]}" "${common[@]}" -D "ngf=$ngf" "$@" \
        --size "${size}x$size" --crop-size "${size}x$size" --hold-out "$hold_out" --objective "${OBJECTIVE:-psnr}" --macs "$budget" \
        --population "${POPULATION:-20}" --generations "${GENERATIONS:-10}" --parents 6 --mutants 8 --crossovers 8 --seed "$seed" \
        "${calibrate[@]}" -o "$out/$name" "${resume[@]}" >"$out/$name.txt" 2>>"$out/$name.log" || failed "$name"
    grep -m 1 '^  -D .*channels=' "$out/$name.txt" | tr -d "' " | sed 's/-D/ -D /g; s/^ //' >"$out/$name.config.part"
    mv "$out/$name.config.part" "$out/$name.config"
}

# config NAME PREFIX DEPTHS: its channels and depths (DEPTHS where they were not searched), as params that begin with PREFIX
config() {
    local channels depths
    channels=$(sed -n 's/.*channels=\(\[[0-9,]*\]\).*/\1/p' "$out/$1.config") depths=$(sed -n 's/.*depths=\(\[[0-9,]*\]\).*/\1/p' "$out/$1.config")
    printf -- '-D\n%schannels=%s\n-D\n%sdepths=%s\n' "$2" "$channels" "$2" "${depths:-$3}"
}

trained supernet "${STEPS_1:-1500}" "$recipes/ugc_pix2pix_supernet.kd" "${data[@]}" "${common[@]}" -D "ngf=$ngf" -D ndf=32 "${vgg[@]}" \
    --labelled "$labelled"
searched student "$macs"
searched wide "$teacher_macs" -D "depths=$least"
searched deep "$teacher_macs" -D "depths=$most"

mapfile -t student < <(config student "" "$most")
mapfile -t teachers < <(config wide wide_ "$least"; config deep deep_ "$most")
trained distilled "${STEPS_2:-3000}" "$recipes/ugc_pix2pix.kd" "${data[@]}" "${common[@]}" "${student[@]}" "${teachers[@]}" -D ndf=32 "${vgg[@]}" \
    --labelled "$labelled" --weights "S=$out/student/best.safetensors" --weights "wide=$out/wide/best.safetensors" \
    --weights "deep=$out/deep/best.safetensors"

if [ ! -e "$out/export.done" ]; then
    say "export"
    rm -rf "$out/export"
    "$kdc" export "$recipes/ugc_pix2pix.kd:S" "${common[@]}" "${student[@]}" --weights "$out/distilled" --size "${size}x$size" -o "$out/export" -q
    printf '#include "S.h"\nint main(void) { S_net n; return S_init(&n, 0) || S_selftest(&n); }\n' >"$out/export/check.c"
    cc -I "$out/export" "$out/export/check.c" "$out/export/libS.a" -o "$out/export/check" && "$out/export/check"
    touch "$out/export.done"
fi

measure() { "$kdc" eval "$@" "${common[@]}" "${data[@]}" --crop-size "${size}x$size" --metrics l1,psnr,ssim 2>/dev/null |
    awk '{ v[$1] = $2 } END { printf "%s | %s | %s", v["L1"], v["PSNR"], v["SSIM"] }'; }
{
    echo "| network | configuration | L1 | PSNR | SSIM |"
    echo "|---|---|---|---|---|"
    echo "| largest, stage 1 | $ngf everywhere | $(measure "$recipes/ugc_pix2pix_supernet.kd:G" -D "ngf=$ngf" --weights "$out/supernet:G") |"
    echo "| student, as searched | ${student[*]} | $(measure "$recipes/ugc_pix2pix.kd:S" "${student[@]}" --weights "$out/student/best.safetensors") |"
    echo "| student, distilled | | $(measure "$recipes/ugc_pix2pix.kd:S" "${student[@]}" --weights "$out/distilled") |"
    for t in wide deep; do
        echo "| $t teacher | $(cat "$out/$t.config") | $(measure "$recipes/ugc_pix2pix.kd:$t" "${teachers[@]}" --weights "$out/distilled") |"
    done
    echo
    echo "The exported student computes what kdc run does, to the bit (its self-test passes)."
} | tee "$out/summary.md"
