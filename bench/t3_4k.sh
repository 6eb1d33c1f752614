#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The 1.3B shape at true 4K (2176x3840, 81 frames, 685,440 tokens), random weights: each of T3's five layer types as a
# whole block, full attention of some queries (times 685,440 / queries: of all), and, when asked for, a whole forward
# pass, which takes about an hour on two cores. One JSON line each.
#
#   bench/t3_4k.sh [forward]          environment: T3V (build/t3v), THREADS (2), QUERIES (2048)
set -euo pipefail
t3v=${T3V:-build/t3v} threads=${THREADS:-2}
common=(--threads "$threads" --repeat 1 --json --quiet)
clip=(--config wan2.1-t2v-1.3b --plan t3 --size 3840x2160 --frames 81)
for layer in 0 1 2 3 4; do "$t3v" bench block "${clip[@]}" --layer $layer "${common[@]}"; done
"$t3v" bench attention --plan full --grid 21,136,240 --queries "${QUERIES:-2048}" "${common[@]}"
[ "${1:-}" != forward ] || "$t3v" bench step "${clip[@]}" "${common[@]}"
