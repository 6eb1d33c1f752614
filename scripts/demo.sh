#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a clip with the starter model from a caption that its training never saw, and scores it.
# usage: scripts/demo.sh BUILD_DIR [MODEL_DIR]   (default model: models/starter)   Writes BUILD_DIR/demo/.
set -euo pipefail
[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: scripts/demo.sh BUILD_DIR [MODEL_DIR]" >&2; exit 2; }
build=$1
model=${2:-$(dirname "$0")/../models/starter}
t3v=$build/t3v
out=$build/demo
seed=1

[ -x "$t3v" ] || { echo "$t3v is missing: build first (scripts/build.sh)" >&2; exit 1; }
missing=0
for file in config.json diffusion_pytorch_model.safetensors Wan2.1_VAE.pth models_t5_umt5-xxl-enc-bf16.pth google/umt5-xxl/spiece.model; do
    [ -e "$model/$file" ] || { echo "missing: $model/$file" >&2; missing=1; }
done
[ $missing = 0 ] || { echo "$model is not a whole model; \`t3v train\` makes one, \`t3v init --config starter\` one with random weights" >&2; exit 1; }

mkdir -p "$out"
prompt=$("$t3v" data synth --count 1 --seed $seed --held-out --canonical --captions-only "$out/prompt.txt" && cat "$out/prompt.txt")
echo "prompt  $prompt"
start=$(date +%s.%N)
"$t3v" generate --model "$model" --prompt "$prompt" --seed $seed -o "$out/demo.mp4" > /dev/null
awk "BEGIN { printf \"clip    %s, made in %.1f s\n\", \"$out/demo.mp4\", $(date +%s.%N) - $start }"
# The same scene and noise again, judged before compression.
"$t3v" eval synth --model "$model" --count 1 --seed $seed --sheet "$out/demo.png" --quiet | sed -n '1s/   [0-9]* clips.*//; 1s/ (sd [0-9.]*)//g; 1s/^/scores  /p'
echo "sheet   $out/demo.png"
