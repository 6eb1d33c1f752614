#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Memory that runs out: every place in the program that allocates fails in a run of its own (tests/fault/fault.c). Each ends in
# an error that speaks of memory and leaves nothing; under AddressSanitizer nothing leaks either.
# T3V_FAULT_DEPTH (default 2) calls tell places apart, T3V_FAULT_HITS (default 1) allocations of each place fail.
set -euo pipefail
t3v=$1
fault=${T3V_BUILD:?}/tests/t3v-fault
golden=tests/golden/wan
depth=${T3V_FAULT_DEPTH:-2} hits=${T3V_FAULT_HITS:-1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export OMP_NUM_THREADS=1
# Buffers that live as long as the process are no leaks.
export LSAN_OPTIONS=${LSAN_OPTIONS:-print_suppressions=0}

failing() { # WHAT FINAL command...: what it writes goes to $dir/out
    local what=$1 final=$2 start=$SECONDS
    shift 2
    mkdir -p "$dir/out"
    "$fault" "$dir/out" "$final" "$depth" "$hits" "$@" > "$dir/said" || { echo "$what:"; cat "$dir/said"; exit 1; }
    echo "$what: $(tail -n 1 "$dir/said"), $((SECONDS - start)) s"
}

tiny=(--model $golden/tiny --threads 1)
cat > "$dir/plan" <<'PLAN'
layers 0 -> full
self layers 1 heads 0-1 steps 0-1 -> tile:k=1 # a comment
else -> t3:blocks=1x1x2/1x2x1
PLAN
failing "generate, a plan of rules" a.y4m generate "${tiny[@]}" --size 32x32 --frames 5 --steps 2 --cfg 5 --plan "@$dir/plan" \
    --save-every 0 --prompt "a heron <b>&amp; Ａ" -o "$dir/out/a.y4m"
failing "generate, attention with a state" a.png generate "${tiny[@]}" --size 32x32 --frames 1 --steps 3 --cfg 5 \
    --plan rettention:warm=0,window=1,period=2 --reuse teacache --save-every 0 --prompt "" -o "$dir/out/a.png"
failing "plan" - plan --plan jenga --model $golden/tiny --grid 3,4,5 --json
failing "plan, a picture" a.svg plan --plan "@$dir/plan" --grid 2,4,4 --layers 3 --svg "$dir/out/a.svg"
failing "inspect, a .pth file" - inspect $golden/tiny/Wan2.1_VAE.pth --json
failing "inspect, a .safetensors file" - inspect $golden/tiny/diffusion_pytorch_model.safetensors
