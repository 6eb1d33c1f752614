#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the table of docs/attention.md: multiply-adds of self-attention of each pattern, one pass of the 1.3B model.
# usage: scripts/plan_table.sh T3V_PROGRAM [PLAN...]
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: scripts/plan_table.sh T3V_PROGRAM [PLAN...]" >&2; exit 2; }
t3v=$1
shift
[ $# -ge 1 ] || mapfile -t patterns < <("$t3v" plan --list | grep -o '^[a-z][a-z0-9_]*')
[ $# -ge 1 ] || set -- "${patterns[@]}"
tuned=$("$t3v" plan --list --json | grep -o '"name":"[a-z0-9_]*","summary":"[^"]*","needs_tuning":true' || true)
field() { grep -o "\"$1\":[^,]*" <<<"$json" | head -1 | cut -d: -f2; }
echo "| plan | 480x832 | 720x1280 | 1088x1920 | 2176x3840 | reach | untuned |"
echo "|---|---|---|---|---|---|---|"
for plan in "$@"; do
    row="| \`$plan\` |"
    for grid in 21,30,52 21,45,80 21,68,120 21,136,240; do
        json=$("$t3v" plan --plan "$plan" --config wan2.1-t2v-1.3b --grid $grid --json --quiet)
        row+=$(awk -v full="$(field macs_full)" -v plan="$(field macs_plan)" \
            'BEGIN { printf " %.*f, %.3g %% |", plan < 1e12 ? 2 : 1, plan / 1e12, 100 * plan / full }')
    done
    untuned=yes
    ! grep -q "\"name\":\"${plan%%:*}\"" <<<"$tuned" || untuned=no
    reach=$(field reach)
    echo "$row ${reach/null/never} | $untuned |"
done
