#!/usr/bin/env bash
# threads.sh [FILE.kd:SESSION DATA]: trains STEPS (60) steps with 1, 2 and 4 threads, and once more with another number of
# decoding threads: the last checkpoints and the logged losses must be the same bits. Without arguments all.kd.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
file=${1:-$here/all.kd} steps=${STEPS:-60} good=0 bad=0
[ -n "${2:-}" ] && data=$2

for run in "1 2" "2 2" "4 2" "2 1" "3 5"; do
    read -r threads workers <<<"$run"
    folder=$work/t$threads-w$workers
    "$kdc" train "$file" --data "$data" --steps "$steps" --seed 7 --threads "$threads" --workers "$workers" --out "$folder" \
        >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    why=$(same_tensors "$(newest "$work/t1-w2")" "$(newest "$folder")") || why="tensors differ: $why"
    [ -z "$why" ] && ! cmp -s <(losses "$work/t1-w2") <(losses "$folder") && why="log.jsonl differs"
    if [ -z "$why" ]; then
        good=$((good + 1))
    else
        bad=$((bad + 1))
    fi
    echo "$threads threads, $workers workers: ${why:-same bits}"
done
echo "$good the same bits, $bad not"
[ $bad -eq 0 ]
