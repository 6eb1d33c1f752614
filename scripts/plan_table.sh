#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the table of docs/attention.md: multiply-adds of full attention and of t3, one pass of the 1.3B model.
# usage: scripts/plan_table.sh T3V_PROGRAM
set -euo pipefail
[ $# = 1 ] || { echo "usage: scripts/plan_table.sh T3V_PROGRAM" >&2; exit 2; }
field() { grep -o "\"$1\":[^,]*" <<<"$json" | head -1 | cut -d: -f2; }
echo "| 81 frames of | tokens | full, 1e12 | t3, 1e12 | ratio | reach | counts |"
echo "|---|---|---|---|---|---|---|"
for size in 832x480 1280x720 1920x1080 3840x2160; do
    json=$("$1" plan --plan t3 --config wan2.1-t2v-1.3b --size $size --frames 81 --json 2>"${TMPDIR:-/tmp}/plan_table.$$")
    counts=$(sed -n 's/^counts: //p' "${TMPDIR:-/tmp}/plan_table.$$")
    rm -f "${TMPDIR:-/tmp}/plan_table.$$"
    awk -v size=$size -v n="$(field tokens)" -v full="$(field macs_full)" -v plan="$(field macs_plan)" -v ratio="$(field ratio)" \
        -v reach="$(field reach)" -v counts="$counts" 'BEGIN {
            printf "| %s | %d | %.1f | %.1f | %.2f | %s | %s |\n", size, n, full / 1e12, plan / 1e12, ratio, reach, counts }'
done
