#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a part of T3V and of a peer program in turn and prints one table: medians and their ratio.
#
#   bench/peer_sdcpp.sh PEER MODEL [dit|vae]
#
# PEER is a program that runs forward passes of the same DiT, or decodes with the same VAE, with the peer's library
# (stable-diffusion.cpp when this was written), a 512-row context, and the latent grid given. It is called as
#   PEER dit|vae MODEL W H T THREADS 1 PASSES
# (latent columns, rows, frames; 1: flash attention) and prints on stdout one JSON line a pass that has "seconds":S.
# The last line counts. The DiT makes two passes: the first also loads weights, and T3V has one unmeasured too.
# MODEL is the peer's weights file (random weights do). T3V's weights are random unless T3V_MODEL names a model.
#
# Environment: T3V (build/t3v), SIZE (832x480; vae: 368x208), FRAMES (5; vae: 17), PLAN (full) of T3V, THREADS (2), REPEAT (3),
# CONFIG (wan2.1-t2v-1.3b).
set -euo pipefail
[ $# -ge 2 ] || { sed -n '3,17p' "$0" >&2; exit 2; }
peer=$1 model=$2 what=${3:-dit}
case $what in
    dit) size=${SIZE:-832x480} frames=${FRAMES:-5} passes=2 part=(step --plan "${PLAN:-full}") ;;
    vae) size=${SIZE:-368x208} frames=${FRAMES:-17} passes=1 part=(vae) ;;
    *) echo "peer_sdcpp: '$what': expected dit or vae" >&2; exit 2 ;;
esac
t3v=${T3V:-build/t3v} threads=${THREADS:-2} repeat=${REPEAT:-3}
width=${size%x*} height=${size#*x}
w=$(((width + 15) / 16 * 2)) h=$(((height + 15) / 16 * 2)) t=$(((frames + 3) / 4))
source=(--config "${CONFIG:-wan2.1-t2v-1.3b}")
[ -z "${T3V_MODEL:-}" ] || source=(--model "$T3V_MODEL")
seconds() { grep -o '"seconds": *[0-9.e+-]*' | tail -1 | sed 's/.*: *//'; }
median() { sort -g | awk '{ x[NR] = $1 } END { print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2 }'; }

ours=() theirs=()
for ((i = 0; i < repeat; i++)); do
    ours+=("$("$t3v" bench "${part[@]}" "${source[@]}" --size "$size" --frames "$frames" --threads "$threads" --repeat 1 --json --quiet | seconds)")
    # A peer that prints its line and fails afterwards, while it cleans up, has been measured.
    one=$({ "$peer" "$what" "$model" "$w" "$h" "$t" "$threads" 1 $passes 2>/dev/null || true; } | seconds || true)
    [ -n "$one" ] || { echo "peer_sdcpp: $peer printed no line with seconds for a $w x $h x $t latent" >&2; exit 1; }
    theirs+=("$one")
    echo "$what $size $frames frames: t3v ${ours[-1]} s, peer $one s" >&2
done
a=$(printf '%s\n' "${ours[@]}" | median) b=$(printf '%s\n' "${theirs[@]}" | median)
printf '%-10s %-12s %s\n' program median_s runs
printf '%-10s %-12s %s\n' t3v "$a" "${ours[*]}" peer "$b" "${theirs[*]}"
awk -v a="$a" -v b="$b" -v w="$what" -v s="$size" -v f="$frames" -v n="$threads" \
    'BEGIN { printf "ratio      %.2f  (peer / t3v; %s, %s, %s frames, %s threads)\n", b / a, w, s, f, n }'
