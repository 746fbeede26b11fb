#!/usr/bin/env bash
# The table that papers print: one teacher; students at a quarter of its width by every method, equal steps, several seeds; L1, PSNR,
# SSIM and a Frechet distance on the test pictures, mean and deviation over seeds; parameters, MACs and latency; a grid of pictures.
#
#   tests/campaign/compare_methods.sh OUT [FACADES]      FACADES: holds aligned/ and train_label/ (../shared/data/facades)
#
# Everything is kept in OUT. What is done is not done again, what was interrupted goes on: call it again after any stop, with more
# SEEDS, or with other METHODS. Runs go seed by seed, so that a stop leaves whole seeds. OUT/table.md, .csv, .json hold the seeds
# that are finished for every method of the table, OUT/grid.png the first seed's pictures.
#
#   STEPS (1200)  of every student   TEACH (7200)  of the teacher   JUDGE (3750)  of the network that the Frechet distance is of
#   SEEDS ("1 2 3")   METHODS (all)   JOBS (2)  runs at a time, a thread each   SIZE (64)   NGF (8)   TEACHER_NGF (32)   NDF (32)
#   KDC  another binary   LATENCY (1)  0: measure none
#
# Students: all by the same network. All: a mobile ResNet-9, hinge, a PatchGAN with instance norms, batch 1, Adam 2e-4, which falls to 0 over the second half. Where a
# method says otherwise it is its recipe's: weights of losses, the order of a step, teachers that are trained along.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
recipes=$root/models/recipes
kdc=${KDC:-$root/build/kdc}
[ $# -gt 0 ] || { sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
facades=${2:-$root/../shared/data/facades}
steps=${STEPS:-1200} teach=${TEACH:-7200} size=${SIZE:-64} ngf=${NGF:-8} teacher_ngf=${TEACHER_NGF:-32} ndf=${NDF:-32} jobs=${JOBS:-2} judge=${JUDGE:-3750}
read -ra seeds <<<"${SEEDS:-1 2 3}"
read -ra methods <<<"${METHODS:-scratch vanilla srp reko portable gan_compression omgd ugc_25 ugc_100}"
export OMP_WAIT_POLICY=passive
[ -d "$facades/aligned/train" ] || { echo "compare_methods.sh: $facades has no aligned/train: which folder are the facades in?" >&2; exit 1; }
pictures=$(find -L "$facades/aligned/train" -name '*.jpg' | wc -l)
pairs=(--data "$facades/aligned" --direction BtoA)
teacher=$out/teacher features=$out/segment

# ---- what a method is ---------------------------------------------------------------------------------------------------

# rates STEPS METHOD: half of the epochs at the full rate, then down, so that the last one is not at 0. CycleGAN's schedule and that of
# OMGD's code (one epoch later; UGC's, too) are made the same.
rates() {
    local epochs=$((($1 + pictures - 1) / pictures)) keep
    keep=$(((epochs + 1) / 2))
    case $2 in
    omgd | ugc_*) echo "-D keep=$((keep - 1)) -D decay=$((epochs - keep + 1))" ;;
    *) echo "-D keep=$keep -D decay=$((epochs - keep + 1))" ;;
    esac
}

# define METHOD: recipe, student (its name there), params, weights, labels
define() {
    local thin=(-D ngf="$ngf") taught=(-D ngf="$ngf" -D teacher_ngf="$teacher_ngf")
    student=S params=(-D size="$size" -D model=mobile -D ndf="$ndf" -D norm=instance -D mode=hinge)
    weights=(--weights T="$teacher:G") labels=()
    case $1 in
    teacher) recipe=pix2pix_resnet student=G params+=(-D ngf="$teacher_ngf") weights=() ;;
    scratch) recipe=pix2pix_resnet student=G params+=("${thin[@]}") weights=() ;;
    vanilla) recipe=distill_pix2pix params+=("${taught[@]}") ;;
    srp) recipe=pix2pix_srp params+=("${taught[@]}") ;;
    reko) recipe=pix2pix_reko params+=("${taught[@]}") ;;
    portable) recipe=pix2pix_portable params+=("${taught[@]}") weights+=(--weights D_T="$teacher:D") ;;
    gan_compression) recipe=pix2pix_gan_compression params+=("${taught[@]}") weights+=(--weights D="$teacher:D") ;;
    omgd) # three blocks of D shared, as its mobile generators have it; VGG's weights are not shipped
        recipe=pix2pix_omgd weights=()
        params+=("${taught[@]}" -D deep_ngf="$ngf" -D n_share=3 -D batch=1 -D n_dis=1 -D vgg=false) ;;
    ugc_25 | ugc_100) # stage 2 with configurations that are given, not searched: the student is the others', its teachers the recipe's
        recipe=ugc_pix2pix weights=() params+=("${taught[@]}" -D batch=1 -D vgg=false)
        if [ "$1" = ugc_25 ]; then labels=(--labelled 25%); fi ;;
    *) echo "compare_methods.sh: there is no method $1" >&2; return 1 ;;
    esac
}

title() {
    case $1 in
    teacher) echo "teacher" ;;
    scratch) echo "student from scratch" ;;
    vanilla) echo "vanilla" ;;
    srp) echo "SRP" ;;
    reko) echo "ReKo" ;;
    portable) echo "Portable GAN" ;;
    gan_compression) echo "GAN Compression" ;;
    omgd) echo "OMGD" ;;
    ugc_25) echo "UGC, 25 % labels" ;;
    ugc_100) echo "UGC, 100 % labels" ;;
    esac
}

# ---- running -------------------------------------------------------------------------------------------------------------

# train RUN RECIPE STEPS SEED OPTIONS...: to its end, unless it is there
train() {
    local run=$1 recipe=$2 steps=$3 seed=$4
    shift 4
    [ -e "$run/done" ] && return 0
    if [ -e "$run/kdc.json" ]; then
        set -- --resume
    else
        rm -rf "$run"
        set -- "$@" --steps "$steps" --seed "$seed" --sample-every "$steps"
    fi
    "$kdc" train "$recipes/$recipe.kd" "$@" --threads 1 --workers 1 --out "$run" >>"$run.log" 2>&1 && touch "$run/done"
}

# measure RUN: RUN/eval.json, by the recipe, student and params that define has set
measure() {
    [ -s "$1/eval.json" ] && return 0
    "$kdc" eval "$recipes/$recipe.kd:$student" "${params[@]}" "${pairs[@]}" --weights "$1" --crop-size "${size}x$size" \
        --features "$features:S.features" --threads 1 --workers 1 --json >"$1/eval.part" 2>>"$1.log" && mv "$1/eval.part" "$1/eval.json"
}

# one METHOD SEED: trains and measures
one() {
    local run=$out/$1-$2
    define "$1"
    # shellcheck disable=SC2046
    if train "$run" "$recipe" "$steps" "$2" "${pairs[@]}" "${params[@]}" $(rates "$steps" "$1") "${weights[@]}" "${labels[@]}" && measure "$run"; then
        printf '%s  %-16s seed %s  L1 %s\n' "$(date +%T)" "$1" "$2" "$(value "$run/eval.json" l1 mean)"
    else
        printf '%s  %-16s seed %s  failed: %s\n' "$(date +%T)" "$1" "$2" "$(tail -n 1 "$run.log")" >&2
    fi
}

# value FILE METRIC FIELD: a number of kdc eval's JSON
value() {
    sed -n "/\"$2\": {/,/}/s/^ *\"$3\": \([^,]*\),\{0,1\}$/\1/p" "$1" | head -n 1
}

# ---- the table -----------------------------------------------------------------------------------------------------------

# finished: the seeds that every method of the table has
finished() {
    local seed method
    for seed in "${seeds[@]}"; do
        for method in "${methods[@]}"; do [ -s "$out/$method-$seed/eval.json" ] || continue 2; done
        echo "$seed"
    done
}

# rows SEED...: "method metric mean deviation n" for each; the deviation is that of n - 1, "-" of one
rows() {
    local method metric seed name
    for method in teacher "${methods[@]}"; do
        for metric in l1 psnr ssim frechet; do
            for seed in "$@"; do
                name=$out/$method-$seed/eval.json
                [ "$method" = teacher ] && name=$teacher/eval.json
                echo "$method $metric $(value "$name" "$metric" "$([ $metric = frechet ] && echo value || echo mean)")"
                if [ "$method" = teacher ]; then break; fi
            done
        done
    done | awk '{ k = $1 " " $2; if (!(k in n)) order[++m] = k; n[k]++; s[k] += $3; q[k, n[k]] = $3 }
        END {
            for (i = 1; i <= m; i++) {
                k = order[i]; mean = s[k] / n[k]; d = 0
                for (j = 1; j <= n[k]; j++) d += (q[k, j] - mean) ^ 2
                printf "%s %.6g %s %d\n", k, mean, (n[k] > 1 ? sprintf("%.3g", sqrt(d / (n[k] - 1))) : "-"), n[k]
            }
        }'
}

# counts: "teacher|student parameters MACs milliseconds", as kdc compare has them; Tout: transposed convolutions by their output; the
# least time of the rounds, since other work may share the cores
counts() {
    local file=$out/counts-${LATENCY:-1}.csv
    if [ ! -s "$file" ]; then
        local latency=()
        [ "${LATENCY:-1}" = 0 ] && latency=(--no-latency)
        define vanilla
        "$kdc" compare "$recipes/$recipe.kd:T" "$recipes/$recipe.kd:S" "${params[@]}" --size "${size}x$size" --threads 1 \
            "${latency[@]}" --format csv -q >"$file.part" && mv "$file.part" "$file"
    fi
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        { printf "%s %.0f %.0f %s\n", NR == 2 ? "teacher" : "student", $at["parameters"], $at["macs_Tout"],
          "latency_1_min_ms" in at ? sprintf("%.3g", $at["latency_1_min_ms"]) : "-" }' "$file"
}

# tables: table.csv (a line for each method and metric), table.md and table.json
tables() {
    local method metric mean deviation n what parameters macs ms
    read -ra whole < <(finished | tr '\n' ' ') || true
    [ ${#whole[@]} -gt 0 ] || { echo "no seed is finished for all methods: no table"; return 0; }
    rows "${whole[@]}" >"$out/.rows"
    counts >"$out/.counts"
    {
        echo "method,metric,mean,deviation,seeds,steps,parameters,macs_Tout,latency_1_core_ms"
        while read -r method metric mean deviation n; do
            what=student
            [ "$method" = teacher ] && what=teacher
            read -r _ parameters macs ms < <(grep "^$what " "$out/.counts")
            echo "$method,$metric,$mean,${deviation#-},$n,$([ $what = teacher ] && echo "$teach" || echo "$steps"),$parameters,$macs,${ms#-}"
        done <"$out/.rows"
    } >"$out/table.csv"
    {
        echo "| | L1 | PSNR, dB | SSIM | Frechet | parameters | MACs (Tout) | 1 core, ms |"
        echo "|---|---|---|---|---|---|---|---|"
        for method in teacher "${methods[@]}"; do
            printf '| %s ' "$(title "$method")"
            for metric in l1 psnr ssim frechet; do
                awk -v k="$method $metric" '$1 " " $2 == k { printf($4 == "-" ? "| %.4g " : "| %.4g ± %.2g ", $3, $4) }' "$out/.rows"
            done
            what=student
            [ "$method" = teacher ] && what=teacher
            awk -v w=$what '$1 == w { printf "| %.4f M | %.4f G | %s |\n", $2 / 1e6, $3 / 1e9, $4 }' "$out/.counts"
        done
        echo
        echo "Students: $steps steps, seeds ${whole[*]}; mean and deviation (n - 1) over them. Teacher: $teach steps, one run. Test pictures of" \
            "facades, $size x $size. Frechet: 32 features of a segmentation network (segment.kd, $judge steps), of as many pictures on each side."
    } >"$out/table.md"
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) key[i] = $i; printf "["; next }
        { printf("%s\n  {", (NR > 2 ? "," : ""))
          for (i = 1; i <= NF; i++) printf("%s\"%s\": %s", (i > 1 ? ", " : ""), key[i], (i < 3 ? "\"" $i "\"" : $i == "" ? "null" : $i))
          printf "}" } END { print "\n]" }' "$out/table.csv" >"$out/table.json"
    cat "$out/table.md"
}

# grid: inputs, truth, teacher and each method of the first finished seed, on four test pictures: a session that trains nothing
grid() {
    local method seed=${whole[0]:-} show="input = x, truth = y, teacher = teacher(x)" given=(--weights teacher="$teacher:G")
    [ -n "$seed" ] || return 0
    {
        printf 'import "nets/generators.kd"\nlet teacher = frozen generator("mobile", %s)\n' "$teacher_ngf"
        for method in "${methods[@]}"; do
            echo "let $method = frozen generator(\"mobile\", $ngf)"
            show+=", $method = $method(x)"
        done
        printf 'session grid(x: [4, 3, %s, %s], y: [4, 3, %s, %s]) from paired { show %s }\n' "$size" "$size" "$size" "$size" "$show"
    } >"$out/grid.kd"
    for method in "${methods[@]}"; do
        define "$method"
        given+=(--weights "$method=$out/$method-$seed:$student")
    done
    rm -rf "$out/grid"
    "$kdc" train "$out/grid.kd" "${pairs[@]}" --phase test --crop-size "${size}x$size" --load-size "${size}x$size" --no-flip --serial-batches \
        --steps 1 "${given[@]}" --threads 1 --out "$out/grid" >"$out/grid.log" 2>&1 && cp "$out/grid/samples/000001.png" "$out/grid.png"
}

# ---- all of it ------------------------------------------------------------------------------------------------------------

train "$features" segment "$judge" 1 --data "$facades" -D size="$size" -D epochs=$(((4 * judge + pictures - 1) / pictures)) || { echo "failed: see $features.log" >&2; exit 1; }
define teacher
epochs=$(((teach + pictures - 1) / pictures))
if ! train "$teacher" "$recipe" "$teach" 1 "${pairs[@]}" "${params[@]}" -D keep=$((epochs / 2)) -D decay=$((epochs / 2)) || ! measure "$teacher"; then
    echo "failed: see $teacher.log" >&2
    exit 1
fi

for seed in "${seeds[@]}"; do
    for method in "${methods[@]}"; do
        [ -s "$out/$method-$seed/eval.json" ] && continue
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
        one "$method" "$seed" &
    done
done
wait
tables
grid || { echo "no grid: see $out/grid.log" >&2; exit 1; }
