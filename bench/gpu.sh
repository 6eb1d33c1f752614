#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that a machine with a GPU is needed for, in one command: whether the CUDA module computes what the CPU does,
# and how fast it is. Made to take less than ten minutes on an H100, after `make cuda`.
#
#   bench/gpu.sh [PEER.py]    PEER.py T,H,W HEADS DIM t,h,w prints the milliseconds of T3's attention in one layer; default:
#                             bench/gpu_t3.py with PyTorch, where that is installed
#   environment: BUILD (build), ONLY (a pattern of part names: kernels, sanitizer, program, attention, forward, vae, clip),
#                MODEL (a model directory for the whole job from prompt to mp4; without it that part is left out)
set -uo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build} only=${ONLY:-} peer=${1:-bench/gpu_t3.py}
t3v=$build/t3v
export T3V_BUILD=$PWD/$build T3V_CUDA=$PWD/$build/libt3v-cuda.so
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
[ -e "$T3V_CUDA" ] || { echo "gpu.sh: $T3V_CUDA is missing; run make cuda" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader || exit 1
bad=0
start=$SECONDS

part() { [[ $1 =~ $only ]] && echo && echo "## $1 ($((SECONDS - start)) s)"; }
check() { # NAME command...: one line, its output where it fails
    local name=$1
    shift
    if "$@" >"$dir/said" 2>&1; then echo "ok      $name"; else
        echo "FAILED  $name"
        tail -n 15 "$dir/said" | sed 's/^/        /'
        bad=$((bad + 1))
    fi
}
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" <<<"$2"; }
row() { # NAME bench options: one row of the table; the seconds are left in $seconds
    local name=$1 line
    shift
    seconds=
    if ! line=$("$t3v" bench --device cuda --json --quiet "$@" 2>"$dir/said"); then
        printf '| %-42s | %s |\n' "$name" "$(tail -n 1 "$dir/said")"
        bad=$((bad + 1))
        return
    fi
    seconds=$(field seconds "$line")
    printf '| %-42s | %10.2f | %8.1f | %6.1f | %8.2f |\n' "$name" "$(bc -l <<<"1000 * $seconds")" \
        "$(bc -l <<<"$(field gflops "$line") / 1000")" "$(field percent_of_peak "$line")" \
        "$(bc -l <<<"$(field peak_device_bytes "$line") / 2^30")"
}
head_row() { printf '| %-42s | %10s | %8s | %6s | %8s |\n|-|-|-|-|-|\n' what ms Tflop/s '% peak' GiB; }

part kernels && check "every kernel, random shapes with tails" "$build/tests/test_kernels"
part sanitizer && if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        check "compute-sanitizer $tool" timeout 150 compute-sanitizer --tool $tool --error-exitcode 9 "$build/tests/test_kernels"
    done
else
    echo "SKIPPED: compute-sanitizer is not installed"
fi
part program && check "text, DiT and its gradients, VAE, a clip" bash tests/e2e/cuda.sh "$t3v"

# Native 4K: 21x136x240 tokens, 1.3B has 12 heads of 128. The five kinds of T3's layers.
if part attention; then
    head_row
    layer=0
    for blocks in 21,1,1 1,17,30 1,8,40 3,17,8 7,8,6; do
        row "T3 layer of kind $layer, 685440 tokens" attention --plan t3 --grid 21,136,240 --layer $layer --repeat 5
        if [ -n "$seconds" ] && ms=$(${PYTHON:-python3} "$peer" 21,136,240 12 128 $blocks 2>"$dir/said"); then
            echo "  the same in PyTorch: $ms ms, $(bc -l <<<"scale=2; $ms / (1000 * $seconds)") times as long"
        else
            echo "  no comparison: $(tail -n 1 "$dir/said")"
        fi
        layer=$((layer + 1))
    done
    row "full, 32640 tokens (one frame)" attention --plan full --grid 1,136,240 --repeat 5
fi
if part forward; then
    head_row
    row "1.3B, 2176x3840x81, t3, a pass" step --plan t3 --size 3840x2176 --frames 81 --repeat 3
    t3=$seconds
    row "1.3B, 2176x3840x81, full, one layer of 30" block --plan full --size 3840x2176 --frames 81 --repeat 1
    [ -z "$t3" ] || [ -z "$seconds" ] || echo "full: $(bc -l <<<"scale=1; 30 * $seconds / 1") s a pass, $(bc -l <<<"scale=1; 30 * $seconds / $t3") times t3"
    row "14B, 832x480x81, t3, one layer of 40" block --config wan2.1-t2v-14b --plan t3 --size 832x480 --frames 81 --repeat 3
fi
if part vae; then
    head_row
    row "VAE decode, 3840x2176, 9 frames" vae --size 3840x2176 --frames 9 --repeat 1
fi
if [ -n "${MODEL:-}" ] && part clip; then
    "$t3v" generate --device cuda --model "$MODEL" --plan t3 --size 3840x2160 --frames 81 --steps 4 --cfg 1 \
        --prompt "A red ball rolls over the beach" -o "$dir/clip.mp4" || bad=$((bad + 1))
fi
echo
echo "$((SECONDS - start)) s, $bad failed"
[ $bad -eq 0 ]
