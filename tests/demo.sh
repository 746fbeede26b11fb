#!/usr/bin/env bash
# The main job on shipped data, called by ./run demo after the build: a trained teacher, a student with a sixteenth of its
# parameters that learns from it for about three minutes on photographs, the student as a library that a C program uses.
# Writes to ./demo-out. STEPS and SIZE may be set, KDC names another binary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kdc=${KDC:-build/kdc} data=models/data out=demo-out recipe=models/recipes/distill_style.kd
steps=${STEPS:-2400} size=${SIZE:-128}
photo=$data/photos/test/kodak-07.jpg
half=$((steps / 100 + 1)) # epochs at the full rate, and again while it falls; an epoch is 50 photographs
student=(-D width=8)
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
rm -rf $out/{run,export,pictures,sample} # of an earlier demo
mkdir -p $out/{export,pictures,sample/kdc,sample/library}

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
show $kdc train $recipe --data $data/photos/train --load-size 256x256 --weights T=$data/wave.safetensors --steps "$steps" \
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

say "the student as a library, with a sample program; the teacher too, for comparison"
show $kdc export $recipe:S "${student[@]}" --weights "$weights" --size 256x256 -o $out/export/student
show $kdc export $recipe:T --weights $data/wave.safetensors --size 256x256 -o $out/export/teacher -q

say "the sample program on a photograph; it runs the self-test first"
printf 'net Same(x: [n, 3, h, w]) { return x }\n' >$out/sample/same.kd
show $kdc run $out/sample/same.kd:Same -i $photo -o $out/sample/photograph.png
show cc -O2 -DWITH_PNG -I $out/export/student $out/export/student/main.c $out/export/student/libS.a -lpng -o $out/sample/translate
show $out/sample/translate $out/sample/photograph.png $out/sample/library/answer.png
echo "self-test passed; beside what kdc run makes of the photograph:"
$kdc run -q $recipe:S "${student[@]}" --weights "$weights" -i $out/sample/photograph.png -o $out/sample/kdc/answer.png
show $kdc eval --pred $out/sample/library --truth $out/sample/kdc --metrics l1

say "how long a picture of 256x256 takes"
bench() { # NET [options]
    show $kdc bench "$recipe:$1" --size 256x256 --runs 20 "${@:2}" | tee "$out/bench-$1.txt"
}
bench T --weights $data/wave.safetensors
bench S "${student[@]}" --weights "$weights"

# What the headers and files of the two libraries say.
constant() { sed -n "s/^#define $1_$2 \([0-9]*\).*/\1/p" "$out/export/$3/$1.h"; }
latency() { sed -n 's/^ *latency *median \([0-9.]*\) ms.*/\1/p' "$out/bench-$1.txt"; }
row() { # WHAT TEACHER STUDENT UNIT FORMAT
    awk -v what="$1" -v a="$2" -v b="$3" -v unit="$4" 'BEGIN {
        printf "  %-22s %10.0f %10.0f %-4s %8.1f times less\n", what, a, b, unit, a / b }'
}
say "teacher and student"
printf '  %-22s %10s %10s\n' "at 256x256" teacher student
row "latency" "$(latency T)" "$(latency S)" ms
row "weights" "$(($(constant T WEIGHT_BYTES teacher) / 1000))" "$(($(constant S WEIGHT_BYTES student) / 1000))" kB
row "library with weights" "$(($(stat -c %s $out/export/teacher/libT.a) / 1000))" "$(($(stat -c %s $out/export/student/libS.a) / 1000))" kB
row "memory while it runs" "$(($(constant T ARENA_BYTES teacher) / 1000))" "$(($(constant S ARENA_BYTES student) / 1000))" kB

say "where things are"
cat <<TEXT
$out/run/report.html        losses, samples, plan: open it in a browser
$out/run/samples/           photograph, student, teacher, while it learned
$out/pictures/              teacher's and student's pictures of the held-out photographs
$out/export/student/        libS.a, S.h, main.c
$out/sample/                the C program, the photograph, its answer (library/answer.png)
TEXT
