#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What --dry-run says a job needs is what it takes, within 10 %.
set -euo pipefail
[ "${T3V_CPU:-}" != ref ] || { echo "skipped: the reference would take hours"; exit 77; }
t3v=$1
if grep -q __asan_init "$t3v"; then
    echo "memory: skipped, a sanitizer's shadow memory hides the program's own"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
peak() { sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p'; }
compare() { # name, arguments of generate...
    local name=$1
    shift
    local said took
    said=$("$t3v" generate "$@" --dry-run --json --quiet | peak)
    took=$("$t3v" generate "$@" --json --quiet | peak)
    echo "$name: said $((said >> 20)) MiB, took $((took >> 20)) MiB"
    awk "BEGIN { d = $said / $took - 1; exit !(d < 0.1 && d > -0.1) }" || { echo "that is more than 10 % off" >&2; exit 1; }
}
"$t3v" init --config starter -o "$dir/model" --quiet > /dev/null
base=(--model "$dir/model" --steps 1 --precision bf16)
prompt=(--prompt "A red circle moves left.")
compare "256x256, 17 frames, mp4" "${base[@]}" "${prompt[@]}" --size 256x256 --frames 17 -o "$dir/a.mp4"
compare "480x832, 5 frames, y4m" "${base[@]}" "${prompt[@]}" --size 480x832 --frames 5 -o "$dir/b.y4m"
compare "256x256, 17 frames, f32" "${base[@]}" --precision f32 "${prompt[@]}" --size 256x256 --frames 17 -o "$dir/c.y4m"
# DiT and VAE side by side; the estimate is for prompts of full length
long=$(printf 'a red circle %.0s' $(seq 60))
echo "[{\"prompt_en\": \"$long\", \"data_file\": \"1.y4m\"}, {\"prompt_en\": \"$long.\", \"data_file\": \"2.y4m\"}]" > "$dir/list.json"
compare "two clips of 256x256, 17 frames" "${base[@]}" --size 256x256 --frames 17 --negative "no $long" --prompts "$dir/list.json" --out-dir "$dir/set"
# a LoRA of 24 MiB, and 120 MiB of products with it: one layer, rank 16,384, zeros
a=$((16384 * 256 * 2)) b=$((512 * 16384 * 2)) name=diffusion_model.blocks.0.ffn.0
header="{\"$name.lora_A.weight\":{\"dtype\":\"BF16\",\"shape\":[16384,256],\"data_offsets\":[0,$a]},\"$name.lora_B.weight\":"
header="$header{\"dtype\":\"BF16\",\"shape\":[512,16384],\"data_offsets\":[$a,$((a + b))]}}"
{
    printf "\\x$(printf %x $((${#header} % 256)))\\x$(printf %x $((${#header} / 256)))\\0\\0\\0\\0\\0\\0%s" "$header"
    head -c $((a + b)) /dev/zero
} > "$dir/lora.safetensors"
compare "256x256, 17 frames, a LoRA" "${base[@]}" --prompt "$long" --negative "no $long" --size 256x256 --frames 17 --lora "$dir/lora.safetensors" -o "$dir/l.y4m"

# Training: what a run says and what its log has
"$t3v" data synth -q --count 2 --seed 5 --size 256x256 --format y4m -o "$dir/v"
"$t3v" data latents -q --model "$dir/model" --videos "$dir/v" --size 256x256 --frames 17 -o "$dir/data" > /dev/null
for how in '"plan":"t3:blocks=5x1x1/1x4x4"' '"train":"lora","teach_layers":0.1,"recompute":true'; do
    echo "{\"model\":\"$dir/model\",\"steps\":1,\"batch\":2,\"lr\":1e-5,$how}" > "$dir/tune.json"
    said=$("$t3v" tune --config "$dir/tune.json" --data "$dir/data" --dry-run --json --quiet | peak)
    rm -rf "$dir/tuned"
    "$t3v" tune --config "$dir/tune.json" --data "$dir/data" -o "$dir/tuned" --quiet
    took=$(sed -n '$s/.*"peak_rss_bytes":\([0-9]*\).*/\1/p' "$dir/tuned/log.jsonl")
    echo "tuning with $how: said $((said >> 20)) MiB, took $((took >> 20)) MiB"
    awk "BEGIN { d = $said / $took - 1; exit !(d < 0.1 && d > -0.1) }" || { echo "that is more than 10 % off" >&2; exit 1; }
done
