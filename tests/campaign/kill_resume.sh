#!/usr/bin/env bash
# kill_resume.sh [N]: trains all.kd once without a stop; then N times (20) with kill -9 at random moments, one to four times a
# round, going on with --resume. The last checkpoint's tensors and the logged losses must be those of the run without a stop,
# bit for bit. STEPS (400) and KDC may be set; RANDOM is seeded by SEED (1).
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
rounds=${1:-20} steps=${STEPS:-400}
RANDOM=${SEED:-1}
good=0 bad=0 kills=0

train() { # FOLDER [options]
    local folder=$1
    shift
    exec "$kdc" train "$here/all.kd" --data "$data" --steps "$steps" --seed 7 --out "$folder" --save-every 13 --sample-every 50 "$@"
}

# As a person would: what has a run goes on, else it begins.
go_on() {
    if [ -e "$1/kdc.json" ]; then
        exec "$kdc" train "$here/all.kd" --out "$1" --resume
    fi
    train "$1"
}

(train "$work/warm") >"$work/log" 2>&1 || { cat "$work/log"; exit 1; } # compiles: later starts take kernels from the cache
began=$(date +%s%N)
(train "$work/whole") >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
took=$((($(date +%s%N) - began) / 1000000))
echo "without a stop: $steps steps in $took ms, $(basename "$(newest "$work/whole")")"

for ((r = 1; r <= rounds; r++)); do
    folder=$work/round$r moments=() times=$((1 + RANDOM % 4))
    : >"$work/log"
    for ((k = 0; k < times; k++)); do
        moment=$((RANDOM * took / 32768 / (k / 2 + 1)))
        (go_on "$folder") >>"$work/log" 2>&1 &
        child=$!
        sleep "$(printf '%d.%03d' $((moment / 1000)) $((moment % 1000)))"
        if kill -9 $child 2>/dev/null; then
            kills=$((kills + 1))
            moments+=("${moment}ms:$(basename "$(newest "$folder")" .safetensors)")
        fi
        wait $child 2>/dev/null
        [ "$(basename "$(newest "$folder")")" = "$(basename "$(newest "$work/whole")")" ] && break
    done
    if [ "$(basename "$(newest "$folder")")" != "$(basename "$(newest "$work/whole")")" ]; then
        (go_on "$folder") >>"$work/log" 2>&1 || { echo "round $r: resume failed"; tail -n 5 "$work/log"; bad=$((bad + 1)); continue; }
    fi
    why=$(same_tensors "$(newest "$work/whole")" "$(newest "$folder")") || why="tensors differ: $why"
    [ -z "$why" ] && ! cmp -s <(losses "$work/whole") <(losses "$folder") && why="log.jsonl differs"
    if [ -z "$why" ]; then
        good=$((good + 1))
    else
        bad=$((bad + 1))
    fi
    echo "round $r: killed at ${moments[*]:-(never)}: ${why:-same bits}"
    [ -z "$why" ] && rm -rf "$folder"
done
echo "$good of $rounds rounds the same bits, $bad not, $kills kills"
[ $bad -eq 0 ] && [ $kills -gt 0 ]
