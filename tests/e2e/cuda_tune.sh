#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# t3v tune on the CUDA module's kernels, which the emulator runs, against the CPU: three steps of each kind of training, what
# is saved, and a run that goes from one device to the other.
set -euo pipefail
t3v=$1
compare=${T3V_BUILD:?}/tests/compare_tensors
export T3V_CUDA=${T3V_CUDA:-$T3V_BUILD/tests/libt3v-cuda-emulated.so} # on a card: build/libt3v-cuda.so
[ -e "$T3V_CUDA" ] || exit 77
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "cuda_tune: $*" >&2; exit 1; }

"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 --tokenizer tests/golden/wan/tiny/google/umt5-xxl/spiece.model \
    -o "$dir/model" > /dev/null
"$t3v" data synth -q --count 2 --seed 5 --size 48x32 --frames 5 --format y4m -o "$dir/v"
"$t3v" data latents -q --model "$dir/model" --videos "$dir/v" --size 48x32 --frames 5 -o "$dir/data" > /dev/null

steps=3
config() { # PLAN EXTRA
    printf '{"model":"%s","plan":"%s","steps":%s,"batch":1,"lr":0.001,"warmup":1,"clip":0.5,"save_every":100%s}' "$dir/model" "$1" $steps "$2" > "$dir/c.json"
}
tune() { # DEVICE OUT...
    local device=$1 out=$2
    shift 2
    "$t3v" tune -q --device "$device" --threads 2 --config "$dir/c.json" --data "$dir/data" -o "$dir/$out" "$@"
}
same() { # OUT LIMIT: moments, weights and their average
    local name
    for name in m v master ema; do
        "$compare" "$dir/$1-cuda/state/train.safetensors" $name "$dir/$1-cpu/state/train.safetensors" $name "$2" ||
            fail "$1: $name"
    done
}
both() { # OUT PLAN EXTRA LIMIT OPTIONS...
    local device out=$1 limit=$4
    config "$2" "$3"
    shift 4
    for device in cpu cuda; do tune $device "$out-$device" "$@"; done
    same "$out" "$limit"
}
weights=diffusion_pytorch_model.safetensors
t3="t3:blocks=1x2x3/2x1x1"

# Sums in another order.
both full "$t3" ',"ema":0.9,"weighting":"diffsynth"' 1e-4 --precision f32
"$compare" "$dir/full-cuda/$weights" blocks.1.ffn.0.weight "$dir/full-cpu/$weights" blocks.1.ffn.0.weight 4e-3
# Blocks run again on the way back, seven tokens at a time.
both again "$t3" ',"ema":0.9,"weighting":"diffsynth","recompute":true,"range":7' 1e-4 --precision f32
"$compare" "$dir/again-cuda/state/train.safetensors" m "$dir/full-cpu/state/train.safetensors" m 1e-4
steps=2
both muon full ',"ema":0.9,"train":"self","muon":true' 1e-2 --precision f32 # its products are of bf16
both own hybrid ',"ema":0.9,"train":"own"' 1e-4 --precision f32
both lora "$t3" ",\"ema\":0.9,\"train\":\"lora\",\"rank\":4,\"teacher\":\"$dir/model\",\"teach\":0.5,\"teach_layers\":0.1" 1e-4 --precision f32 --merge
for file in lora.safetensors:diffusion_model.blocks.0.self_attn.q.lora_B.weight $weights:blocks.0.self_attn.q.weight \
    $weights:blocks.2.norm3.weight; do
    "$compare" "$dir/lora-cuda/${file%%:*}" "${file#*:}" "$dir/lora-cpu/${file%%:*}" "${file#*:}" 2e-3
done
steps=3
both half "$t3" ',"ema":0.9,"train":"lora","rank":4' 3e-2 --precision bf16
grep -q '"peak_device_bytes":' "$dir/half-cuda/log.jsonl" || fail "the log does not tell the device's memory"

# Begun on the CPU, ended on the device, with something to look at.
config "$t3" ',"ema":0.9,"weighting":"diffsynth"'
tune cpu moved-cuda --precision f32 --stop-after 2
config "$t3" ',"ema":0.9,"weighting":"diffsynth","samples":{"prompts":["a red cube"],"every":3,"steps":2}'
tune cuda moved-cuda --precision f32 --resume
cp -r "$dir/full-cpu" "$dir/moved-cpu"
same moved 1e-4
ls "$dir"/moved-cuda/samples/step_000003_0.* > /dev/null || fail "no samples"

"$t3v" tune --dry-run --device cuda --config "$dir/c.json" --data "$dir/data" | grep -q 'peak memory .* of the emulator' ||
    fail "--dry-run does not name the device"
