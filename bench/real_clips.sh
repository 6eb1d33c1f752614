#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tunes the starter on real video at 480p under T3: clips cut from the files of VIDEOS that are at least 480 lines high,
# captions from CAPTIONS. Says the loss on the same noise before and after, and the memory predicted and taken; draws
# the last samples and the log's picture into OUT.
#
#   bench/real_clips.sh VIDEOS CAPTIONS OUT       (CAPTIONS: bench/real_clips.csv for two clips of Big Buck Bunny)
#
# environment: T3V (build/t3v), MODEL (models/starter), SIZE (832x480), FRAMES (17), STEPS (48), BATCH (2), CROPS (4),
# PLAN (t3), LR (1e-3)
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 3 ] || { sed -n '3,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
t3v=$(realpath "${T3V:-build/t3v}") model=${MODEL:-models/starter} size=${SIZE:-832x480} frames=${FRAMES:-17}
steps=${STEPS:-48} batch=${BATCH:-2} crops=${CROPS:-4} plan=${PLAN:-t3} lr=${LR:-1e-3}
videos=$1 captions=$2 out=$3
mkdir -p "$out"
"$t3v" data latents --model "$model" --videos "$videos" --captions "$captions" --size "$size" --frames "$frames" \
    --crops "$crops" -o "$out/latents"

prompts=$(tail -n +2 "$captions" | sed 's/^[^,]*,"\{0,1\}\(.*[^"]\)"\{0,1\}$/"\1"/' | paste -sd,)
base="\"plan\":\"$plan\",\"batch\":$batch,\"recompute\":true,\"shift\":3"
printf '{"model":"%s",%s,"steps":%d,"lr":%s,"lr_end":%s,"muon":true,"warmup":5,"ema":0.9,"save_every":12,"samples":{"prompts":[%s],"every":%d,"size":[%d,%d],"frames":%d}}\n' \
    "$model" "$base" "$steps" "$lr" "$lr" "$prompts" "$steps" "${size%x*}" "${size#*x}" "$frames" > "$out/tune.json"
resume=()
[ ! -e "$out/run/state/train.safetensors" ] || resume=(--resume)
said=$("$t3v" tune --config "$out/tune.json" --data "$out/latents" -o "$out/run" --dry-run --json --quiet | sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p')
"$t3v" tune --config "$out/tune.json" --data "$out/latents" -o "$out/run" "${resume[@]}"
# Rendering has its own memory, so what training took is read before the samples of the last step.
took=$(sed -n 's/.*"peak_rss_bytes":\([0-9]*\).*/\1/p' "$out/run/log.jsonl" | sed -n "$((steps - 1))p")

tuned=$out/model
mkdir -p "$tuned"
for part in Wan2.1_VAE.pth google models_t5_umt5-xxl-enc-bf16.pth; do ln -sfn "$(realpath "$model/$part")" "$tuned/$part"; done
cp "$out/run/diffusion_pytorch_model.safetensors" "$out/run/config.json" "$out/run/t3v.json" "$tuned/"
loss() { # MODEL: a run that changes nothing, over the same clips, noise and timesteps whatever the model
    rm -rf "$out/same"
    printf '{"model":"%s",%s,"steps":8,"lr":1e-12,"warmup":1,"weight_decay":0,"ema":0,"seed":9}\n' "$1" "$base" > "$out/same.json"
    "$t3v" tune --quiet --config "$out/same.json" --data "$out/latents" -o "$out/same"
    sed -n 's/.*"loss":\([0-9.e+-]*\).*/\1/p' "$out/same/log.jsonl" | awk '{ s += $1 } END { printf "%.4f", s / NR }'
}
# The tuned DiT has another fingerprint than the latents' model has only in its own weights: VAE and text encoder are the same.
before=$(loss "$model") after=$(loss "$tuned")
printf '{"size":"%s","frames":%d,"clips":%d,"steps":%d,"batch":%d,"plan":"%s","loss_before":%s,"loss_after":%s,"predicted_bytes":%s,"peak_bytes":%s,"off":%.3f}\n' \
    "$size" "$frames" "$(ls "$out/latents/clips" | wc -l)" "$steps" "$batch" "$plan" "$before" "$after" "$said" "$took" \
    "$(awk "BEGIN { print $said / $took - 1 }")" | tee "$out/result.json"
