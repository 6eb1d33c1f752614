#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs `t3v bench step` and a peer program in turn and prints one table: medians and their ratio.
#
#   bench/peer_sdcpp.sh PEER [MODEL]
#
# PEER is a program that runs forward passes of the same DiT with the peer's library (stable-diffusion.cpp when this
# was written), a 512-row context, and the latent grid given. It is called as
#   PEER dit MODEL W H T THREADS 1 2
# (latent columns, rows, frames; 1: flash attention; 2: passes) and prints on stdout one JSON line a pass that has
# "seconds":S. The last line counts: a first pass also loads weights, and T3V has one unmeasured too.
# MODEL is the peer's weights file (or $MODEL; random weights do). T3V's weights are random unless T3V_MODEL names a model.
#
# Environment: T3V (build/t3v), SIZE (832x480), FRAMES (5), THREADS (2), REPEAT (3), CONFIG (wan2.1-t2v-1.3b).
set -euo pipefail
[ $# -ge 1 ] || { sed -n '3,16p' "$0" >&2; exit 2; }
peer=$1 model=${2:-${MODEL:-}}
t3v=${T3V:-build/t3v} size=${SIZE:-832x480} frames=${FRAMES:-5} threads=${THREADS:-2} repeat=${REPEAT:-3}
width=${size%x*} height=${size#*x}
w=$(((width + 15) / 16 * 2)) h=$(((height + 15) / 16 * 2)) t=$(((frames + 3) / 4))
source=(--config "${CONFIG:-wan2.1-t2v-1.3b}")
[ -z "${T3V_MODEL:-}" ] || source=(--model "$T3V_MODEL")
seconds() { grep -o '"seconds": *[0-9.e+-]*' | tail -1 | sed 's/.*: *//'; }
median() { sort -g | awk '{ x[NR] = $1 } END { print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2 }'; }

ours=() theirs=()
for ((i = 0; i < repeat; i++)); do
    ours+=("$("$t3v" bench step "${source[@]}" --size "$size" --frames "$frames" --threads "$threads" --repeat 1 --json --quiet | seconds)")
    # A peer that prints its line and fails afterwards, while it cleans up, has been measured.
    one=$({ "$peer" dit "$model" "$w" "$h" "$t" "$threads" 1 2 2>/dev/null || true; } | seconds || true)
    [ -n "$one" ] || { echo "peer_sdcpp: $peer printed no line with seconds for a $w x $h x $t latent" >&2; exit 1; }
    theirs+=("$one")
done
a=$(printf '%s\n' "${ours[@]}" | median) b=$(printf '%s\n' "${theirs[@]}" | median)
printf '%-10s %-12s %s\n' program median_s runs
printf '%-10s %-12s %s\n' t3v "$a" "${ours[*]}" peer "$b" "${theirs[*]}"
awk -v a="$a" -v b="$b" -v s="$size" -v f="$frames" -v n="$threads" 'BEGIN { printf "ratio      %.2f  (peer / t3v; %s, %s frames, %s threads)\n", b / a, s, f, n }'
