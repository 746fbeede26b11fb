#!/usr/bin/env bash
# What each distillation term adds to a CycleGAN step, two students of ngf 16 with frozen teachers of ngf 64 at 256x256: time, as a share
# of the step without it (with and without the teachers' forward passes), and activations. A table in Markdown on stdout.
#
#   tests/bench/distillation_cost.sh [NAME...]     NAME: only rows whose name contains one of them
#
# Needs ./run build. RUNS (3) steps are timed each time, in ROUNDS (2) rounds; before and after each measurement the step with the
# teachers alone is timed, and ratios are to the mean of both, because a machine's clock changes. SIZE (256), KDC another binary.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
kdc=${KDC:-$root/build/kdc}
runs=${RUNS:-3} rounds=${ROUNDS:-2} size=${SIZE:-256}
only=("$@")

# measure FILE.kd:SESSION ARGS...: "milliseconds activation-bytes"
measure() {
    "$kdc" bench -I "$root/models" "$@" -D size="$size" --runs "$runs" --json 2>/dev/null |
        sed -n 's/.*"median_ms": \([0-9.]*\).*/\1/p; s/.*"activations": \([0-9]*\).*/\1/p' | tr '\n' ' '
    echo
}

read -r plain plain_bytes < <(measure "$here/distillation_cost.kd:plain")
read -r base base_bytes < <(measure "$here/distillation_cost.kd:teachers")
echo "| term | ms a step | over the teachers' passes | over no teacher | activations MB | more than with the teachers' passes |"
echo "|---|---|---|---|---|---|"
awk -v p="$plain" -v pb="$plain_bytes" -v b="$base" -v bb="$base_bytes" 'BEGIN {
    printf "| no teacher | %.0f | | | %.0f | |\n| teachers'"'"' forward passes | %.0f | | +%.0f %% | %.0f | |\n", p, pb / 1e6, b, 100 * (b / p - 1), bb / 1e6 }'

# row NAME FILE.kd:SESSION ARGS...
row() {
    local name=$1 wanted=1 p ms bytes again ratios=""
    shift
    for p in "${only[@]}"; do
        wanted=0
        [[ $name == *"$p"* ]] && wanted=1 && break
    done
    [ $wanted = 1 ] || return 0
    for ((p = 0; p < rounds; p++)); do
        read -r ms bytes < <(measure "$@")
        read -r again _ < <(measure "$here/distillation_cost.kd:teachers")
        ratios+="$(awk -v m="$ms" -v a="$base" -v b="$again" 'BEGIN { print m / ((a + b) / 2) }') "
        base=$again
    done
    # shellcheck disable=SC2086
    printf '%s\n' $ratios | sort -g | awk -v name="$name" -v ms="$ms" -v over="$(awk -v b="$base" -v p="$plain" 'BEGIN { print b / p }')" \
        -v bytes="$bytes" -v bb="$base_bytes" '{ v[NR] = $1 } END {
            r = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
            printf "| %s | %.0f | %+.1f %% | %+.0f %% | %.0f | %+.1f MB |\n", name, ms, 100 * (r - 1), 100 * (r * over - 1), bytes / 1e6, (bytes - bb) / 1e6 }'
}

r=$root/models/recipes
row vanilla "$r/distill_cyclegan.kd:distill_cyclegan" -D method=image
row attention_transfer "$r/distill_cyclegan.kd:distill_cyclegan" -D method=at
row fitnets "$r/distill_cyclegan.kd:distill_cyclegan" -D method=fitnets
row vid "$r/distill_cyclegan.kd:distill_cyclegan" -D method=vid
row srp "$r/cyclegan_srp.kd:cyclegan_srp" -D lambda_identity=0.5
row srp_l1 "$r/cyclegan_srp.kd:cyclegan_srp" -D lambda_identity=0.5 -D relation=l1
row wavelet "$r/cyclegan_wavelet.kd:cyclegan_wavelet"
row reko "$r/cyclegan_reko.kd:cyclegan_reko"
row reko_paper "$r/cyclegan_reko.kd:cyclegan_reko" -D form=paper
row patchnce "$r/cyclegan_patchnce.kd:cyclegan_patchnce"
row portable "$r/cyclegan_portable.kd:cyclegan_portable" -D ngf=16
