#!/usr/bin/env bash
# Laws that are about the tree itself (docs/architecture.md): who may include what, file sizes, what the runtime needs.
# Reports like cmocka, one line a law.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
shopt -s lastpipe # `law` ends a pipe and must count in this shell
passed=0 failed=0

law() { # TITLE, then the offending lines on stdin
    local bad
    bad=$(cat)
    if [ -z "$bad" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'law broken: %s\n%s\n' "$1" "$bad"
    fi
}

# includes_outside FOLDER ALLOWED_REGEX: project includes of FOLDER's files that are not allowed
includes_outside() {
    grep -rnE '^#include "' "$1" --include='*.[ch]' | grep -vE "#include \"($2)" || true
}

includes_outside ir 'ir/' | law "ir/ includes ir/ only"
includes_outside frontend/lang 'ir/|frontend/lang/' | law "frontend/lang includes ir/ only"
includes_outside passes 'ir/|passes/' | law "passes/ includes ir/ only"
includes_outside codegen 'ir/|codegen/|runtime/kdrt/kdrt\.(h|def)' | law "codegen/ includes ir/ and kdrt's interface only"
includes_outside runtime 'runtime/' | law "runtime/ includes nothing of the compiler"
grep -rlE '#include <llvm' --include='*.[ch]' . | grep -vE '^\./(codegen|build)' | law "llvm-c stays in codegen/"
grep -rnE '#include [<"]llvm/' --include='*.[ch]' codegen | law "LLVM's C API only"
find ir passes codegen runtime frontend -name '*.[ch]' -size +20k -exec awk '
    FNR == 1 { lines = 0; reason = 0 } /Longer than 900 lines/ { reason = 1 } { lines++ }
    ENDFILE { if (lines > 950 && !reason) print FILENAME ": " lines " lines" }' {} + 2>/dev/null |
    law "no file over about 900 lines without a reason in it"
grep -rnE '\b(exit|abort|system|popen)\(' --include='*.c' ir passes codegen runtime frontend/lang frontend/api |
    grep -vE '^\S+:\s*(/?\*|//)' | law "libraries never exit, and nothing runs a shell"

printf '[  PASSED  ] %d test(s).\n' "$passed"
[ $failed -gt 0 ] && printf '[  FAILED  ] %d test(s)\n' "$failed"
[ $failed -eq 0 ]
