#!/usr/bin/env bash
# The main job on shipped data, called by ./run demo after the build: a trained teacher, a student with a sixteenth of its
# parameters that learns from it on photographs, and the student's own answer. Writes to ./demo-out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kdc=build/kdc data=models/data out=demo-out recipe=models/recipes/distill_style.kd
mkdir -p $out

say() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

say "teacher, student and one training step, as kdc sees them"
show $kdc $recipe -D size=128 -D width=8

say "distilling: 600 steps over twelve photographs; the loss is the mean difference to the teacher, of 150"
show $kdc call $recipe:distill_style -D size=128 -D width=8 --steps 600 --seed 1 \
    --in $data/photos.safetensors --weights T=$data/wave.safetensors --out $out/trained.safetensors

say "the student by itself, on a photograph of another shape, with the gradients of everything"
show $kdc call $recipe:S -D width=8 --grad --in $data/photo.safetensors --weights $out/trained.safetensors \
    --out $out/answer.safetensors

say "the student as an object file for this machine, and for a phone's processor"
show $kdc $recipe:S -D width=8 --size 256x256 -o $out/student.o
show $kdc $recipe:S -D width=8 --size 256x256 --target aarch64-linux-gnu -o $out/student-aarch64.o
ls -l $out

say "where things are"
cat <<TEXT
$out/trained.safetensors   the student (S.*), Adam's moments (opt.*), the losses (log.loss), the last pictures
                             (show.x the photograph, show.fake the student's, show.soft the teacher's)
$out/answer.safetensors    out, and grad.X for the input and every weight X
$out/student.o             the student's kernels and entry, without weights yet (kdc export comes with the next release)
TEXT
