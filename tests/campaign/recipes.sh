#!/usr/bin/env bash
# Every recipe trains for some steps at 64x64, its student is exported, and the export's self-test (every bit as compiled just in
# time) runs. One line a recipe, a table in Markdown at the end, both in OUT. Teachers are trained first, shortly.
#
#   tests/campaign/recipes.sh OUT [NAME...]     NAME: only rows whose name contains one of them
#
# Needs ./run build, and data sets: FACADES (aligned pairs, A photographs), LABELS (train_label, train_img), DAY2NIGHT (trainA, trainB);
# they default to ../shared/data. STEPS (200) and TEACH (300) are steps, KDC another binary, THREADS how many each run may use.
# A loss is the mean of the first and of the last twentieth of the steps.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
recipes=$root/models/recipes
kdc=${KDC:-$root/build/kdc}
shared=$root/../shared/data
FACADES=${FACADES:-$shared/facades/aligned} LABELS=${LABELS:-$shared/facades} DAY2NIGHT=${DAY2NIGHT:-$shared/day2night}
steps=${STEPS:-200} teach=${TEACH:-300} threads=${THREADS:-1}
[ $# -gt 0 ] || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
only=("$@")
common=(-D size=64 -D ndf=16 --threads "$threads" --workers 1 --load-size 71x71)
pairs=(--data "$FACADES" --direction BtoA) unpaired=(--data "$DAY2NIGHT") labels=(--data "$LABELS" -D classes=11)

wanted() {
    [ ${#only[@]} -eq 0 ] && return 0
    local p
    for p in "${only[@]}"; do [[ $1 == *"$p"* ]] && return 0; done
    return 1
}

# teacher NAME RECIPE ARGS...: a run folder $out/teacher-NAME, unless it is there
teacher() {
    local name=$1 recipe=$2
    shift 2
    [ -e "$out/teacher-$name/done" ] && return
    rm -rf "$out/teacher-$name"
    "$kdc" train "$recipes/$recipe" "${common[@]}" "$@" --steps "$teach" --out "$out/teacher-$name" >"$out/teacher-$name.log" 2>&1
    touch "$out/teacher-$name/done"
}

# fell RUN LOSS: its mean over the first and the last twentieth of the steps
fell() {
    sed -n "s/.*\"$2\":\([^,}]*\).*/\1/p" "$1/log.jsonl" | awk '{ v[NR] = $1 } END {
        k = int((NR + 19) / 20)
        for (i = 1; i <= k; i++) { a += v[i]; b += v[NR + 1 - i] }
        printf "%.4g %.4g\n", a / k, b / k }'
}

# exported RUN RECIPE NET ARGS...: "every bit" when the export computes what `kdc run` does
exported() {
    local run=$1 recipe=$2 net=$3 folder=$1/export
    shift 3
    "$kdc" export "$recipes/$recipe:$net" "$@" --weights "$run" --size 64x64 -o "$folder" -q >"$run/export.log" 2>&1 || { echo "not exported"; return; }
    printf '#include "%s.h"\nint main(void) { %s_net n; return %s_init(&n, 0) || %s_selftest(&n); }\n' "$net" "$net" "$net" "$net" >"$folder/check.c"
    cc -I "$folder" "$folder/check.c" "$folder/lib$net.a" -o "$folder/check" && "$folder/check" && echo "every bit" || echo "differs"
}

table=$out/table.md
printf '| recipe | distillation loss | first steps | last steps | other losses | ms an image | export |\n|---|---|---|---|---|---|---|\n' >"$table"

# row NAME RECIPE[:SESSION] STUDENT LOSS OTHERS ARGS...: OTHERS: losses shown beside it, by commas, or -
row() {
    local name=$1 recipe=$2 student=$3 loss=$4 others=$5 file=${2%%:*} o first last text="" defines=() a
    shift 5
    wanted "$name" || return 0
    rm -rf "${out:?}/$name"
    if ! "$kdc" train "$recipes/$recipe" "${common[@]}" "$@" --steps "$steps" --out "$out/$name" >"$out/$name.log" 2>&1; then
        printf '| %s | %s | failed: %s |\n' "$name" "$loss" "$(tail -n 1 "$out/$name.log")" | tee -a "$table"
        return 0
    fi
    for ((a = 1; a < $#; a++)); do [ "${!a}" = -D ] && { o=$((a + 1)); defines+=(-D "${!o}"); }; done
    read -r first last < <(fell "$out/$name" "$loss")
    for o in ${others//,/ }; do [ "$o" = - ] || text+="$o $(fell "$out/$name" "$o" | sed 's/ / to /'), "; done
    local rate
    rate=$(sed -n 's/.*"images_per_s":\([^,}]*\).*/\1/p' "$out/$name/log.jsonl" | sort -g | awk '{ v[NR] = $1 } END { printf "%.0f", 1000 / v[int((NR + 1) / 2)] }')
    printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$name" "$loss" "$first" "$last" "${text%, }" "$rate" \
        "$(exported "$out/$name" "$file" "$student" -D size=64 -D ndf=16 "${defines[@]}")" | tee -a "$table"
}

# ---- teachers ----------------------------------------------------------------------------------------------------------

teacher unet pix2pix.kd "${pairs[@]}" -D ngf=16
teacher mobile pix2pix_resnet.kd "${pairs[@]}" -D model=mobile -D ngf=16
teacher cat pix2pix_resnet.kd "${pairs[@]}" -D model=cat_batch -D norm=batch -D ngf=12 -D batch=4
teacher cycle cyclegan.kd "${unpaired[@]}" -D model=mobile -D ngf=16 -D lambda_identity=0
teacher spade gaugan.kd "${labels[@]}" -D ngf=8 -D batch=2 -D mobile=true -D hidden=16
teacher hd pix2pixhd.kd "${pairs[@]}" -D ngf=16 -D n_down=3
unet=(-D ngf=8 -D teacher_ngf=16 --weights T="$out/teacher-unet:G")
mobile=(-D model=mobile -D ngf=8 -D teacher_ngf=16 --weights T="$out/teacher-mobile:G")
one=(-D model=mobile -D ngf=8 -D teacher_ngf=16 --weights T="$out/teacher-cycle:G_A")
two=(-D model=mobile -D ngf=8 -D teacher_ngf=16 -D lambda_identity=0 --weights T_A="$out/teacher-cycle:G_A"
    --weights T_B="$out/teacher-cycle:G_B")
spade=(-D ngf=4 -D teacher_ngf=8 -D batch=2 --weights D="$out/teacher-spade:D"
    --weights T="$out/teacher-spade:G")

# ---- frameworks ---------------------------------------------------------------------------------------------------------

row pix2pix pix2pix.kd G rec adv "${pairs[@]}" -D ngf=8
row pix2pix_resnet pix2pix_resnet.kd G rec adv "${pairs[@]}" -D model=mobile -D ngf=8
row cyclegan cyclegan.kd G_A cycle adv "${unpaired[@]}" -D model=mobile -D ngf=8
row pix2pixhd pix2pixhd.kd G feat adv "${pairs[@]}" -D ngf=8
row gaugan gaugan.kd G feat adv "${labels[@]}" -D ngf=8 -D batch=2 -D hidden=16

# ---- methods -------------------------------------------------------------------------------------------------------------

row vanilla distill_pix2pix.kd S kd rec "${pairs[@]}" "${unet[@]}"
row vanilla_mse distill_pix2pix.kd S kd rec "${pairs[@]}" "${unet[@]}" -D method=mse
row attention_transfer distill_pix2pix.kd S kd rec "${pairs[@]}" "${unet[@]}" -D method=at
row fitnets distill_pix2pix.kd S kd rec "${pairs[@]}" "${unet[@]}" -D method=fitnets
row vid distill_pix2pix.kd S kd rec "${pairs[@]}" "${unet[@]}" -D method=vid
row sp distill_pix2pix.kd S kd rec "${pairs[@]}" "${unet[@]}" -D method=sp -D batch=4
row ka distill_pix2pix.kd S kd rec "${pairs[@]}" "${unet[@]}" -D method=ka -D batch=4 -D lambda_distill=100
row cyclegan_vanilla distill_cyclegan.kd S_A kd cycle "${unpaired[@]}" "${two[@]}"
row cyclegan_at distill_cyclegan.kd S_A kd cycle "${unpaired[@]}" "${two[@]}" -D method=at
row cyclegan_fitnets distill_cyclegan.kd S_A kd cycle "${unpaired[@]}" "${two[@]}" -D method=fitnets
row cyclegan_vid distill_cyclegan.kd S_A kd cycle "${unpaired[@]}" "${two[@]}" -D method=vid
row single_fitnets distill_single.kd S kd rec "${unpaired[@]}" "${one[@]}"
row pix2pix_gan_compression pix2pix_gan_compression.kd S kd rec "${pairs[@]}" "${mobile[@]}" --weights D="$out/teacher-mobile:D"
row cyclegan_gan_compression cyclegan_gan_compression.kd S kd rec "${unpaired[@]}" "${one[@]}"
row gaugan_gan_compression gaugan_gan_compression.kd S kd feat "${labels[@]}" "${spade[@]}"
row pix2pix_cat pix2pix_cat.kd S kd rec "${pairs[@]}" -D ngf=6 -D teacher_ngf=12 -D batch=4 -D lambda_distill=50 --weights D="$out/teacher-cat:D" \
    --weights T="$out/teacher-cat:G"
row cyclegan_cat cyclegan_cat.kd S kd rec "${unpaired[@]}" "${one[@]}" -D batch=4
row pix2pix_srp pix2pix_srp.kd S sp image "${pairs[@]}" "${unet[@]}"
row cyclegan_srp cyclegan_srp.kd S_A sp_a sp_b,image "${unpaired[@]}" "${two[@]}"
row pix2pix_omgd pix2pix_omgd.kd S kd likeness,cd "${pairs[@]}" -D ngf=8 -D teacher_ngf=16 -D deep_ngf=4 -D batch=1 -D n_dis=1 -D vgg=false
row cyclegan_omgd cyclegan_omgd.kd:cyclegan_omgd S kd likeness,cd "${unpaired[@]}" -D ngf=8 -D teacher_ngf=16 -D lambda_identity=0 -D n_dis=1 -D vgg=false
ugc=(--labelled 0.25 -D ngf=8 -D teacher_ngf=16 -D ndf=32 -D vgg=false)
row ugc_pix2pix ugc_pix2pix.kd S kd g_loss,used "${pairs[@]}" "${ugc[@]}"
row ugc_pix2pix_resnet ugc_pix2pix.kd S kd g_loss,used "${pairs[@]}" "${ugc[@]}" -D model=resnet
row ugc_pix2pix_unet ugc_pix2pix.kd S kd g_loss,used "${pairs[@]}" "${ugc[@]}" -D model=unet
row ugc_pix2pixhd ugc_pix2pixhd.kd:ugc_pix2pixhd S kd g_loss,used "${pairs[@]}" "${ugc[@]}" -D n_down=3
row ugc_gaugan ugc_gaugan.kd S kd g_loss,used "${labels[@]}" "${ugc[@]}" -D ngf=4 -D batch=2
row ugc_pix2pix_supernet ugc_pix2pix_supernet.kd G kd rec "${pairs[@]}" --labelled 0.25 -D ndf=32 -D vgg=false
row pix2pix_gcc pix2pix_gcc.kd S content style "${pairs[@]}" -D ngf=8 -D teacher_ngf=16
row cyclegan_gcc cyclegan_gcc.kd S_A content style "${unpaired[@]}" -D ngf=8 -D teacher_ngf=16
row pix2pix_wavelet pix2pix_wavelet.kd S kd rec "${pairs[@]}" "${unet[@]}"
row cyclegan_wavelet cyclegan_wavelet.kd S_A kd cycle "${unpaired[@]}" "${two[@]}"
row pix2pix_reko pix2pix_reko.kd S kd rec "${pairs[@]}" "${unet[@]}"
row pix2pix_reko_paper pix2pix_reko.kd S kd rec "${pairs[@]}" "${unet[@]}" -D form=paper
row cyclegan_reko cyclegan_reko.kd S_A kd cycle "${unpaired[@]}" "${two[@]}"
row pix2pix_patchnce pix2pix_patchnce.kd S kd rec "${pairs[@]}" "${unet[@]}"
row cyclegan_patchnce cyclegan_patchnce.kd S_A kd cycle "${unpaired[@]}" "${two[@]}"
row pix2pix_portable pix2pix_portable.kd S l1 perc,tri "${pairs[@]}" "${unet[@]}" --weights D_T="$out/teacher-unet:D"
row cyclegan_portable cyclegan_portable.kd S_A l1 perc,tri "${unpaired[@]}" "${two[@]}" \
    --weights D_T_A="$out/teacher-cycle:D_A" --weights D_T_B="$out/teacher-cycle:D_B"
row pix2pix_ackd pix2pix_ackd.kd S kd rec "${pairs[@]}" "${mobile[@]}" -D teacher_model=mobile
row pix2pix_reko_omgd pix2pix_reko_omgd.kd S omgd reko "${pairs[@]}" -D ngf=8 -D teacher_ngf=16 -D deep_ngf=4 -D batch=1 -D n_dis=1 -D vgg=false
row pix2pix_reko_gcc pix2pix_reko_gcc.kd S gcc reko "${pairs[@]}" -D ngf=8 -D teacher_ngf=16
row pix2pixhd_reko pix2pixhd_reko.kd S kd feat "${pairs[@]}" -D ngf=8 -D teacher_ngf=16 --weights T="$out/teacher-hd:G"
