#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# t3v attend and t3v eval attention on the CUDA module's kernels, which the emulator runs, against the CPU: plans of every
# kind over a grid that no block divides, with gradients, those of a plan's own parameters too.
set -euo pipefail
t3v=$1
compare=${T3V_BUILD:?}/tests/compare_tensors
export T3V_CUDA=${T3V_CUDA:-$T3V_BUILD/tests/libt3v-cuda-emulated.so} # on a card: build/libt3v-cuda.so
[ -e "$T3V_CUDA" ] || exit 77
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "cuda_attend: $*" >&2; exit 1; }

grid=2,5,7 tokens=70 heads=2
inputs() { # DIM: q, k, v and dout of about 1
    awk -v n=$((tokens * heads * $1)) -v dim="$1" -v tokens=$tokens -v heads=$heads 'BEGIN {
        for (i = 0; i < 4; i++)
            head = head sprintf("%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d,%d,%d],\"data_offsets\":[%d,%d]}", i ? "," : "{",
                substr("qkvd", i + 1, 1) (i == 3 ? "out" : ""), tokens, heads, dim, 4 * n * i, 4 * n * (i + 1))
        head = head "}"
        while (length(head) % 8) head = head " "
        printf "\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0%s", length(head) % 256, length(head) / 256, head
        x = 7
        for (i = 0; i < 4 * n; i++) { # sign, exponent of 1/4 to 2, fraction: the bytes of a float
            x = (x * 69069 + 1) % 4294967296
            e = 125 + int(x / 65536) % 3
            printf "\\0\\x%02x\\x%02x\\x%02x", int(x / 16777216) % 256, e % 2 * 128 + int(x / 131072) % 128, \
                int(x / 8388608) % 2 * 128 + int(e / 2)
        }
    }' >"$dir/bytes"
    printf "$(cat "$dir/bytes")" >"$dir/in.safetensors"
}
both() { # PRECISION PLAN options
    local device precision=$1 plan=$2
    shift 2
    for device in cpu cuda; do
        "$t3v" attend --quiet --device $device --precision "$precision" --plan "$plan" --grid $grid --step 2/4 "$@" \
            -i "$dir/in.safetensors" -o "$dir/$device.safetensors" >"$dir/said-$device"
    done
    cmp "$dir/said-cpu" "$dir/said-cuda" || fail "$plan: other densities"
}
same() { # PLAN LIMIT tensors
    local name plan=$1 limit=$2
    shift 2
    for name; do
        "$compare" "$dir/cuda.safetensors" "$name" "$dir/cpu.safetensors" "$name" "$limit" >"$dir/said" ||
            fail "$plan, $name: $(cat "$dir/said")"
    done
}

inputs 24
for plan in full t3:blocks=1x2x3 swin:window=2x3x4 tile:k=1 jenga:block=16 rainfusion2:block=16,window=4,dense=0 rettention:window=2 \
    hybrid hybrid:rate=0,last=elu; do
    both f32 "$plan" --grad "$dir/in.safetensors"
    same "$plan" 1e-4 out dq dk dv
    case $plan in
        rettention*) ;; # terms that are not computed then: -inf
        hybrid) same "$plan" 1e-4 lse dphi_q.0.weight dphi_k.0.weight ;;
        *) same "$plan" 1e-4 lse ;;
    esac
done
for plan in t3:blocks=1x2x3 jenga:block=16; do
    both bf16 "$plan" --grad "$dir/in.safetensors"
    same "$plan" 2e-2 out lse dq dk dv
done
inputs 80 # between the widths that kernels have
both bf16 t3:blocks=1x2x3 --grad "$dir/in.safetensors"
same "t3 of 80" 2e-2 out lse dq dk dv

# Layer by layer inside a model, on one's own device's queries and keys.
"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 --tokenizer tests/golden/wan/tiny/google/umt5-xxl/spiece.model \
    -o "$dir/model" >/dev/null
"$t3v" data synth -q --count 1 --seed 5 --size 80x48 --frames 5 --format y4m -o "$dir/v"
"$t3v" data latents -q --model "$dir/model" --size 80x48 --frames 5 --start first --videos "$dir/v" -o "$dir/data" >/dev/null
for plan in hybrid; do
    for device in cpu cuda; do
        "$t3v" eval attention -q --model "$dir/model" --data "$dir/data" --precision f32 --plan "$plan" --timesteps 300 \
            --device $device | tr -d '%' >"$dir/eval-$device"
    done
    [ -s "$dir/eval-cuda" ] && paste "$dir/eval-cpu" "$dir/eval-cuda" | awk '
        { for (i = 1; 2 * i <= NF; i++) { a = $i; b = $(i + NF / 2); if (a != b && (a - b > 0.02 || b - a > 0.02)) exit 1 } }' ||
        fail "eval attention, $plan: $(paste "$dir/eval-cpu" "$dir/eval-cuda")"
done
