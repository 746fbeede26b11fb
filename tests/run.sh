#!/usr/bin/env bash
# Runs every test program of build/ and, marked [asan], of build-asan/ (the same sources under AddressSanitizer and
# UndefinedBehaviorSanitizer), plus tests/*.sh checks. Called by ./run test, which builds first.
#
#   tests/run.sh [NAME...]   only programs whose name contains one of NAME
#
# A program reports through cmocka; its counts are added up. A program that dies counts as one failure. The last line is
#   N passed, N failed, N skipped
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Not everything repeats under the sanitizers: what only multiplies work there is listed with its reason.
# test_golden_training: minutes in the evaluator, on whole recipes; sessions, gradients and optimisers run there in test_api, test_session,
# test_train, test_golden_ops
not_under_asan='^test_golden_training$'

passed=0 failed=0 skipped=0
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
export XDG_CACHE_HOME=$log/cache # tests never see or fill the user's kernel cache
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1}
export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

wanted() { # NAME PATTERNS...
    local name=$1 p
    shift
    [ $# -eq 0 ] && return 0
    for p in "$@"; do [[ $name == *"$p"* ]] && return 0; done
    return 1
}

count() { # LABEL FILE: the sum of cmocka's "[  LABEL  ] N test(s)" lines
    grep -aoE "\[ +$1 +\] [0-9]+ test\(s\)" "$2" | grep -oE '[0-9]+ test' | awk '{s += $1} END {print s + 0}'
}

# Programs run side by side, one for each core; a program's line appears when it ends.
jobs=$(nproc)
number=0

run_one() { # TITLE COMMAND...
    number=$((number + 1))
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    one "$log/$number" "$@" &
}

one() { # PLACE TITLE COMMAND...: counts into PLACE.counts
    local place=$1 title=$2 status p f s start=$SECONDS
    shift 2
    timeout 600 "$@" >"$place.out" 2>&1 </dev/null
    status=$?
    p=$(count PASSED "$place.out") f=$(count FAILED "$place.out") s=$(count SKIPPED "$place.out")
    if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    echo "$p $f $s" >"$place.counts"
    {
        printf '%-44s %5d passed %3d failed %3d skipped %4d s\n' "$title" "$p" "$f" "$s" $((SECONDS - start))
        if [ "$f" -gt 0 ] || [ $status -ne 0 ]; then
            grep -avE '^\[ +(RUN|OK) +\]' "$place.out" | tail -n 60 | sed 's/^/    /'
        fi
    } >"$place.text"
    cat "$place.text" # in one piece
    rm "$place.out"
}

for folder in build build-asan; do
    mark=""
    [ $folder = build-asan ] && mark=" [asan]"
    for program in "$folder"/tests/test_*; do
        [ -x "$program" ] || continue
        name=$(basename "$program")
        wanted "$name" "$@" || continue
        if [ -n "$mark" ] && [[ $name =~ $not_under_asan ]]; then continue; fi
        KDC_BIN=$PWD/$folder/kdc run_one "$name$mark" "$program"
    done
done

for script in tests/check_*.sh; do
    [ -e "$script" ] || continue
    wanted "$(basename "$script")" "$@" || continue
    run_one "$(basename "$script")" bash "$script"
done

wait
while read -r p f s; do
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    number=$((number - 1))
done < <(cat "$log"/*.counts 2>/dev/null)
failed=$((failed + number)) # programs that left no counts

echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
