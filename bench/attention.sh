#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How close attention comes to the machine's peak, packing of K and V included: contiguous windows, T3's layer types with
# their gather, full attention, backward, the f32 kernel of AVX2, and the same attention composed of oneDNN calls; on one
# thread and on two. Each measurement alternates with the peak loop; "clock" is the median percentage of the peak by the
# clock, "cpu" by processor time, which says more on a machine that does other work. About three minutes on two quiet cores.
#
#   bench/attention.sh     environment: T3V (build/t3v), GRID of T3's layers (21,136,240: 4K, 9 GB of memory), REPEAT (7),
#                          ONLY (a pattern of row names)
set -euo pipefail
t3v=${T3V:-build/t3v} grid=${GRID:-21,136,240} repeat=${REPEAT:-7} only=${ONLY:-}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

row() { # name, threads, options
    local name=$1 threads=$2 line
    shift 2
    [[ $name =~ $only ]] || return 0
    "$t3v" bench attention --threads "$threads" --repeat "$repeat" --json --quiet "$@" | while read -r line; do
        field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" <<<"$line"; }
        printf '| %-34s | %-18s | %d | %7s | %7s | %6s | %6s |\n' "$name" "$(field what | sed s/attention_//)" "$threads" \
            "$(field gflops)" "$(field peak_gflops)" "$(field percent_of_peak)" "$(field percent_by_cpu_time)"
    done
}

printf '| %-34s | %-18s | t | Gflop/s |    peak | %% clock |  %% cpu |\n|-|-|-|-|-|-|-|\n' what pass
for threads in 1 2; do
    row "window of 1344, dim 128" $threads --grid 1,42,32 --heads 12 --backward --composed
    row "window of 1680, dim 128" $threads --grid 1,42,40 --heads 12
    row "window of 2040, dim 128" $threads --grid 1,51,40 --heads 12
    row "window of 2142, dim 128" $threads --grid 1,51,42 --heads 12 --backward --composed
    row "window of 8160, dim 128" $threads --grid 1,68,120 --heads 2
    row "full attention of 32640, dim 128" $threads --grid 1,136,240 --heads 1 --repeat 3
    row "window of 1344, dim 64" $threads --grid 1,42,32 --heads 12 --dim 64 --backward
    row "T3 frames, 21x68x120" $threads --plan t3 --layer 0 --grid 21,68,120 --first-heads 1 --repeat 3
    for layer in 1 2 3 4; do
        row "T3 layer type $layer, $grid" $threads --plan t3 --layer $layer --grid "$grid" --first-heads 1 --repeat 3
    done
done
export T3V_CPU=avx2
row "AVX2 f32, window of 1344, dim 128" 1 --precision f32 --grid 1,42,32 --heads 2 --backward
row "AVX2 f32, window of 2064, dim 128" 1 --precision f32 --grid 1,48,43 --heads 2
