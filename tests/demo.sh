#!/usr/bin/env bash
# The main job on shipped data, called by ./run demo after the build: a trained teacher, a student with a sixteenth of its
# parameters that learns from it for about three minutes on photographs, the student as a library that a C program uses.
# Writes to ./demo-out. STEPS and SIZE may be set, KDC names another binary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kdc=${KDC:-build/kdc} data=models/data out=demo-out recipe=models/recipes/distill_style.kd
steps=${STEPS:-2400} size=${SIZE:-128}
photo=$data/photos/test/kodak-07.jpg
half=$((steps / 100)) # epochs at the full rate, and again while it falls; an epoch is 50 photographs
student=(-D width=8)
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
mkdir -p $out
rm -rf $out/{run,export,pictures} # of an earlier demo

say() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

# Mean of a loss over the first and the last twentieth of the log.
fell() {
    sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" $out/run/log.jsonl | awk -v name="$1" '{ v[NR] = $1 } END {
        k = int((NR + 19) / 20)
        for (i = 1; i <= k; i++) { a += v[i]; b += v[NR + 1 - i] }
        printf "  %-8s %8.4f in the first %d steps   %8.4f in the last %d\n", name, a / k, k, b / k, k }'
}

say "teacher, student and one training step, as kdc sees them"
show $kdc $recipe -D size="$size" "${student[@]}"

say "distilling: $steps steps on 50 photographs, cut to ${size}x$size (about three minutes on two cores; Ctrl-C stops it and saves)"
show $kdc train $recipe --data $data/photos/train --weights T=$data/wave.safetensors --steps "$steps" \
    -D size="$size" "${student[@]}" -D keep=$half -D decay=$half --out $out/run
weights=$(ls $out/run/checkpoint-*.safetensors | tail -n 1)

say "what was learned: the losses"
for loss in l1 kd adv d_loss; do
    fell $loss
done

say "what was learned: the student against the teacher on 10 photographs that it has not seen, before and after"
compare=(--data $data/photos/test --layout plain --against T --metrics l1,psnr,ssim --weights T=$data/wave.safetensors
    "${student[@]}")
show $kdc eval $recipe:S "${compare[@]}"
show $kdc eval $recipe:S "${compare[@]}" --weights S="$weights"

say "pictures of both"
show $kdc run $recipe:T --weights $data/wave.safetensors -i $data/photos/test -o $out/pictures/teacher
show $kdc run $recipe:S "${student[@]}" --weights "$weights" -i $data/photos/test -o $out/pictures/student

say "the student as a library, and the sample program that comes with it"
show $kdc export $recipe:S "${student[@]}" --weights "$weights" --size 256x256 -o $out/export
ls -l $out/export
