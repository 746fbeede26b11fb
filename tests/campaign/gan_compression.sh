#!/usr/bin/env bash
# shellcheck disable=SC2086
# gan_compression.sh OUT [FOLDER]: GAN Compression's pipeline (docs/methods/gan_compression.md) from nothing to a library, as one script:
#
#   teacher     Pix2Pix with a separable ResNet
#   start       a narrower one: of each layer the channels of largest L1 norm (kdc prune)
#   student     which learns from the teacher
#   supernet    from the student: each step one sub-network
#   search      the best sub-network below a latency, on pictures that were held out of all training (kdc search)
#   finetune    of the winner alone, from the supernet's weights
#   export      a library; its latency beside the budget and what the search said
#
# FOLDER holds pairs as train/ and test/ (../shared/data/facades/aligned). A stage whose result is in OUT is not done again; one that was
# interrupted goes on where it was. Results: OUT/summary.md, OUT/search/search.html, OUT/sample.png (what goes in, the winner's, the teacher's
# and the true picture), OUT/export; what stages said and took is in OUT/stages. Needs kdc ($KDC, or build/kdc), cc.
#
# What may be set, with what is used otherwise:
#   SIZE=64 DIRECTION=BtoA HOLD_OUT=40 TEACHER_NGF=48 NGF=32 SPACE=channels-32 NDF=48 DISTILL=1.0
#   STEPS_TEACHER=1500 STEPS_STUDENT=600 STEPS_SUPERNET=1500 STEPS_FINETUNE=800
#   OBJECTIVE=l1 LATENCY= (ms on one core; half of the widest sub-network's) PREDICT=1 (0: every one measured) POPULATION=40 GENERATIONS=8 JOBS=1 THREADS= (all cores)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
kdc=${KDC:-$root/build/kdc}
[ $# -ge 1 ] || { sed -n 's/^# \{0,1\}//; 2,21p' "$0"; exit 2; }
mkdir -p "$1/stages"
out=$(cd "$1" && pwd)
data=${2:-$root/../shared/data/facades/aligned}
size=${SIZE:-64} ngf=${NGF:-32} teacher_ngf=${TEACHER_NGF:-48} space=${SPACE:-channels-32} ndf=${NDF:-48}
threads=${THREADS:+--threads $THREADS}
recipes=$root/models/recipes
super=$recipes/pix2pix_gan_compression_supernet.kd
pictures=(--data "$data" --direction "${DIRECTION:-BtoA}" --hold-out "${HOLD_OUT:-40}")
common=(-D size="$size" -D ndf="$ndf")
taught=(-D teacher_ngf="$teacher_ngf" -D lambda_distill="${DISTILL:-1.0}" --weights T="$out/teacher:G")
kept=$(find "$data/train" -type f | wc -l)
kept=$((kept - ${HOLD_OUT:-40}))
began=$(date +%s)
export OMP_WAIT_POLICY=passive

# stage NAME COMMAND...: once; how long it took, in this and earlier tries together, is in NAME.seconds.
stage() {
    local name=$1 before=0 start code=0 at=$out/stages/$1
    shift
    [ ! -e "$at.done" ] || { echo "$name: done before, $(cat "$at.seconds") s"; return 0; }
    [ ! -e "$at.seconds" ] || before=$(cat "$at.seconds")
    start=$(date +%s)
    echo "$name: $*" >> "$out/stages/commands"
    "$@" >> "$at.log" 2>&1 || code=$?
    echo $((before + $(date +%s) - start)) > "$at.seconds"
    if [ $code -ne 0 ]; then
        tail -n 3 "$at.log" >&2
        echo "$name: exit code $code, see $at.log; the same command goes on from here" >&2
        exit $code
    fi
    touch "$at.done"
    echo "$name: $(cat "$at.seconds") s"
}

# train NAME STEPS FILE OPTIONS...: half of the steps at the full rate, half down to 0.
train() {
    local name=$1 steps=$2 epochs
    shift 2
    epochs=$(((steps + kept - 1) / kept))
    if [ -e "$out/$name/kdc.json" ]; then
        "$kdc" train "$1" --out "$out/$name" --resume $threads
    else
        "$kdc" train "$@" "${pictures[@]}" "${common[@]}" --steps "$steps" -D keep=$((epochs - epochs / 2)) -D decay=$((epochs / 2)) \
            --out "$out/$name" $threads
    fi
}

value() { sed -n "s/.*\"$1\": *\([0-9.e+-]*\).*/\1/p" "$2" | head -n 1; } # of the first such key of a JSON file

stage teacher train teacher "${STEPS_TEACHER:-1500}" $recipes/pix2pix_resnet.kd -D model=mobile -D ngf=$teacher_ngf
stage start "$kdc" prune $recipes/pix2pix_resnet.kd:G -D model=mobile -D ngf=$teacher_ngf -D size=$size --size ${size}x$size \
    --weights "$out/teacher" --by norm --to ngf=$ngf -o "$out/start.kd"
stage student train student "${STEPS_STUDENT:-600}" $recipes/pix2pix_gan_compression.kd -D ngf=$ngf "${taught[@]}" \
    --weights D="$out/teacher:D" --weights S="$out/start.safetensors"
stage supernet train supernet "${STEPS_SUPERNET:-1500}" $super -D space=$space "${taught[@]}" \
    --weights D="$out/student:D" --weights S="$out/student:S" --weights K="$out/student:K"

# The budget: on one core, as the search measures.
sub=("$super:Sub" -D space="$space" -D size="$size")
bench() { "$kdc" bench "${sub[@]}" --size "${size}x$size" --threads 1 --runs 1000 --json -q "$@" > "$out/stages/part" && mv "$out/stages/part" "$out/stages/widest.json"; }
stage bench bench
widest=$(printf %.3f "$(value min_ms "$out/stages/widest.json")")
budget=${LATENCY:-$(awk "BEGIN { printf \"%.3g\", $widest / 2 }")}

search() {
    local again= predict=--predict
    [ "${PREDICT:-1}" = 1 ] || predict=
    [ ! -e "$out/search/search.json" ] || again=--resume
    "$kdc" search "${sub[@]}" --weights "$out/supernet:S" "${pictures[@]}" --crop-size "${size}x$size" --size "${size}x$size" \
        --objective "${OBJECTIVE:-l1}" --latency "$budget" $predict --population "${POPULATION:-40}" --parents 10 --mutants 10 --crossovers 10 \
        --generations "${GENERATIONS:-8}" --jobs "${JOBS:-1}" -o "$out/search" $again
}
stage search search
channels=$(sed -n '/"best"/,/"config"/s/.*"config": *"channels=\(\[[^]]*\]\)".*/\1/p' "$out/search/search.json" | head -n 1 | tr -d ' ')
[ -n "$channels" ] || { echo "no configuration below $budget ms was found: set LATENCY" >&2; exit 1; }

stage finetune train finetune "${STEPS_FINETUNE:-800}" $super -D space=$space -D "channels=$channels" "${taught[@]}" \
    --weights D="$out/supernet:D" --weights S="$out/supernet:S" --weights K="$out/supernet:K"
stage import "$kdc" import "$out/finetune" "${sub[@]}" -D "channels=$channels" -o "$out/winner.safetensors"

# Metrics on the test pictures.
measure() { # NAME FILE:NET WEIGHTS OPTIONS...
    local name=$1 net=$2 weights=$3
    shift 3
    "$kdc" eval "$net" --weights "$weights" --data "$data" --direction "${DIRECTION:-BtoA}" --crop-size "${size}x$size" "$@" --json -q \
        > "$out/stages/part" && mv "$out/stages/part" "$out/stages/$name.json"
}
of_winner=(-D space="$space" -D size="$size" -D "channels=$channels")
stage eval-teacher measure eval-teacher $recipes/pix2pix_resnet.kd:G "$out/teacher" -D model=mobile -D ngf=$teacher_ngf -D size=$size
stage eval-student measure eval-student $recipes/pix2pix_gan_compression.kd:S "$out/student" -D ngf=$ngf -D size=$size
stage eval-sliced measure eval-sliced $super:Sub "$out/supernet:S" "${of_winner[@]}"
stage eval-winner measure eval-winner $super:Sub "$out/winner.safetensors" "${of_winner[@]}"
cp "$(find "$out/finetune/samples" -name '*.png' | sort | tail -n 1)" "$out/sample.png"

# The library, timed by a program that links it.
export_library() {
    "$kdc" export $super:Sub "${of_winner[@]}" --weights "$out/winner.safetensors" --size "${size}x$size" -o "$out/export"
    cat > "$out/export/time.c" <<'C'
#include "Sub.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
enum { RUNS = 1000 };
static float x[Sub_INPUT_COUNT], y[Sub_OUTPUT_COUNT];
static double ms[RUNS];
static int by_value(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }
int main(void) {
    Sub_net net;
    if (Sub_init(&net, NULL)) return 1;
    for (int i = 0; i < Sub_INPUT_COUNT; i++) x[i] = (float)(i % 255) / 127.5f - 1;
    for (int i = -20; i < RUNS; i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        Sub_run(&net, x, y);
        clock_gettime(CLOCK_MONOTONIC, &b);
        if (i >= 0) ms[i] = 1e3 * (double)(b.tv_sec - a.tv_sec) + 1e-6 * (double)(b.tv_nsec - a.tv_nsec);
    }
    qsort(ms, RUNS, sizeof *ms, by_value);
    printf("{\"least\": %.4f, \"median\": %.4f, \"runs\": %d}\n", ms[0], ms[RUNS / 2], RUNS);
    Sub_free(&net);
    return 0;
}
C
    cc -O2 -I"$out/export" "$out/export/time.c" "$out/export/libSub.a" -lm -o "$out/export/time"
    "$out/export/time" > "$out/stages/part" && mv "$out/stages/part" "$out/stages/latency.json"
}
stage export export_library

# The table.
row() { printf '| %s | %.2f | %.2f | %.4f |\n' "$1" "$(metric l1 "$2")" "$(metric psnr "$2")" "$(metric ssim "$2")"; }
metric() { sed -n "/\"$1\": {/,/}/s/.*\"mean\": *\([0-9.e+-]*\).*/\1/p" "$out/stages/$2.json" | head -n 1; }
of_best() { # GROUP KEY: a latency of the search's winner
    sed -n '/"best"/,$p' "$out/search/search.json" | sed -n "/\"$1\"/,/}/s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p" | head -n 1
}
library=$(value least "$out/stages/latency.json")
{
    echo "channels $channels, of $space; pictures $data at ${size}x$size, direction ${DIRECTION:-BtoA}"
    echo
    echo "| on the test pictures | L1 | PSNR | SSIM |"
    echo "|---|---|---|---|"
    row "teacher, ngf $teacher_ngf" eval-teacher
    row "student, ngf $ngf" eval-student
    row "winner, sliced from the supernet" eval-sliced
    row "winner, fine-tuned" eval-winner
    echo
    echo "| one core | ms | of the budget |"
    echo "|---|---|---|"
    share() { printf '| %s | %.3f | %.1f %% |\n' "$1" "$2" "$(awk "BEGIN { print 100 * $2 / $budget }")"; }
    share "widest sub-network, least" "$widest"
    share "budget" "$budget"
    share "winner, as the search $([ "${PREDICT:-1}" = 1 ] && echo predicted || echo measured) it" \
        "$(of_best latency_ms "$([ "${PREDICT:-1}" = 1 ] && echo predicted || echo measured)")"
    share "winner, measured when the search ended" "$(of_best measured_again_ms measured)"
    share "the exported library, least of 1000 runs" "$library"
    share "the exported library, median" "$(value median "$out/stages/latency.json")"
    echo
    echo "| stage | seconds |"
    echo "|---|---|"
    for s in teacher start student supernet bench search finetune import export; do echo "| $s | $(cat "$out/stages/$s.seconds") |"; done
} > "$out/summary.md.part"
mv "$out/summary.md.part" "$out/summary.md"
cat "$out/summary.md"
echo "this call took $(($(date +%s) - began)) s"
