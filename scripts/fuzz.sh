#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs fuzz targets one after the other and keeps count: each run adds a row to CORPUS_DIR/totals.tsv (target, seconds
# of processor time, executions, edges covered, exit status).
# usage: scripts/fuzz.sh BUILD_DIR CORPUS_DIR SECONDS [TARGET...]   (a target without its "fuzz_"; default: all)
set -uo pipefail
[ $# -ge 3 ] || { echo "usage: scripts/fuzz.sh BUILD_DIR CORPUS_DIR SECONDS [TARGET...]" >&2; exit 2; }
cd "$(dirname "$0")/.."
build=$1 corpus=$2 seconds=$3
shift 3
if [ $# -eq 0 ]; then
    for target in "$build"/fuzz/fuzz_*; do
        name=${target##*/fuzz_}
        [ -x "$target" ] && set -- "$@" "$name"
    done
fi
export ASAN_OPTIONS=${ASAN_OPTIONS:-allocator_may_return_null=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
TMPDIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
TIMEFORMAT=%U
failed=0
for name; do
    mkdir -p "$corpus/$name" "$corpus/log"
    log=$corpus/log/$name.log
    # The corpus grows in its own directory; committed seeds, where a target has them, come first.
    args=("$corpus/$name")
    [ -d "tests/fuzz/seeds/fuzz_$name" ] && args+=("tests/fuzz/seeds/fuzz_$name")
    [ -f "tests/fuzz/dict/$name.dict" ] && args+=("-dict=tests/fuzz/dict/$name.dict")
    cpu=$({ time "$build/fuzz/fuzz_$name" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 \
        -artifact_prefix="$corpus/log/$name-" "${args[@]}" >"$log" 2>&1; } 2>&1)
    rc=$?
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(grep -o ' cov: [0-9]*' "$log" | tail -n 1 | tr -dc 0-9)
    printf '%s\t%s\t%s\t%s\t%d\n' "$name" "$cpu" "${executed:-0}" "${edges:-0}" $rc >>"$corpus/totals.tsv"
    [ $rc -eq 0 ] && continue
    failed=1
    echo "fuzz_$name failed (exit $rc), $log:" >&2
    grep -a -m 1 -A 12 'ERROR\|runtime error\|Sanitizer' "$log" >&2 || tail -n 5 "$log" >&2
done
exit $failed
