#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Weights rewritten: round trips to the byte, every type close to its source, layouts there and back, LoRA merged, a file
# larger than the memory that is used, and nothing under the final name when a run does not end.
set -euo pipefail
t3v=$1
compare=${T3V_BUILD:?}/tests/compare_tensors
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
m=$dir/starter
w=diffusion_pytorch_model.safetensors
prompt="A heron lands on a frozen lake."

convert() { "$t3v" convert --quiet "$@" > /dev/null; }
refused() { # STATUS TEXT ARGS...
    local want=$1 text=$2 rc=0
    shift 2
    "$t3v" convert --quiet "$@" > "$dir/out" 2> "$dir/err" || rc=$?
    [ $rc = "$want" ] && grep -q -- "$text" "$dir/err" || { echo "status $rc, expected $want and '$text':"; cat "$dir/err"; exit 1; }
}
velocity() { # MODEL OUT MORE...
    local model=$1 out=$2
    shift 2
    "$t3v" dit --quiet --model "$model" --latent "$dir/latent.safetensors" --context "$dir/context.safetensors" \
        --timestep 500 --precision f32 -o "$out" "$@" > /dev/null
}
u64() { # little-endian
    local n=$1 i s=
    for i in 1 2 3 4 5 6 7 8; do s+=$(printf '\\x%02x' $((n & 255))); n=$((n >> 8)); done
    printf "$s"
}
header() { head -c $(($(od -An -tu8 -N8 "$1") + 8)) "$1" | tail -c +9; }
with_header() { # FILE HEADER: its tensors under another header
    local n
    n=$(od -An -tu8 -N8 "$1")
    u64 ${#2}
    printf %s "$2"
    tail -c +$((n + 9)) "$1"
}

"$t3v" init --quiet --config starter --dtype f32 --seed 4 -o "$m" > /dev/null
"$t3v" generate --quiet --model "$m" --prompt "$prompt" --size 64x64 --frames 5 --steps 1 --cfg 1 --precision f32 \
    --save-latent "$dir/latent.safetensors" -o "$dir/x.y4m" > /dev/null
"$t3v" text --quiet --model "$m" --prompt "$prompt" --precision f32 -o "$dir/context.safetensors" > /dev/null
velocity "$m" "$dir/v.safetensors"

echo "# round trips: the same bytes"
h=$(header "$m/$w")
with_header "$m/$w" "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"kept: 'this'\"},${h#\{}" > "$dir/named.safetensors"
for type in f32 bf16; do
    convert "$dir/named.safetensors" --dtype $type -o "$dir/a.safetensors" --force
    header "$dir/a.safetensors" | grep -q "kept: 'this'"
    convert "$dir/a.safetensors" -o "$dir/b.gguf" --force
    convert "$dir/b.gguf" --dtype $type -o "$dir/c.safetensors" --force
    cmp "$dir/a.safetensors" "$dir/c.safetensors"
    convert "$dir/a.safetensors" -o "$dir/d.safetensors" --shard-size 3M --force
    [ "$(ls "$dir" | grep -c '^d-0000.-of-0000..safetensors$')" -gt 2 ] && [ ! -e "$dir/d.safetensors" ]
    convert "$dir/d.safetensors.index.json" -o "$dir/e.safetensors" --force
    cmp "$dir/a.safetensors" "$dir/e.safetensors"
    rm "$dir"/d-*
    convert "$dir/a.safetensors" -o "$dir/f.pth" --force
    convert "$dir/f.pth" -o "$dir/g.safetensors" --force
    cmp <(header "$dir/a.safetensors" | sed 's/.*"note":[^}]*},//; s/ *$//') <(header "$dir/g.safetensors" | sed 's/^{//; s/ *$//')
done

echo "# every type close to its source, closer with more bits"
cp "$m/config.json" "$m/t3v.json" "$dir"
last=0
for case in q8_0:0.009 q6_k:0.025 q5_k:0.05 q5_1:0.054 q5_0:0.058 q4_k:0.096 q4_1:0.1 q4_0:0.105 q3_k:0.18; do
    type=${case%:*}
    convert "$m/$w" --dtype $type -o "$dir/$type.gguf"
    velocity "$dir/$type.gguf" "$dir/q.safetensors"
    "$compare" "$dir/q.safetensors" velocity "$dir/v.safetensors" velocity "${case#*:}"
    "$t3v" inspect --json "$dir/$type.gguf" | grep -iq "\"$type\""
    [ "$(stat -c %s "$dir/$type.gguf")" -ne $last ]
    last=$(stat -c %s "$dir/$type.gguf")
done
for case in q3_k_m:0.15 q3_k_l:0.14 q4_k_s:0.085 q4_k_m:0.08 q5_k_m:0.036; do
    convert "$m/$w" --dtype ${case%:*} -o "$dir/mix.gguf" --force
    velocity "$dir/mix.gguf" "$dir/q.safetensors"
    "$compare" "$dir/q.safetensors" velocity "$dir/v.safetensors" velocity "${case#*:}"
done
convert "$m/$w" --dtype f8_e4m3 -o "$dir/f8.safetensors"
velocity "$dir/f8.safetensors" "$dir/q.safetensors"
"$compare" "$dir/q.safetensors" velocity "$dir/v.safetensors" velocity 0.038
convert "$dir/f8.safetensors" -o "$dir/f8b.safetensors" # scales are kept
velocity "$dir/f8b.safetensors" "$dir/r.safetensors"
cmp "$dir/q.safetensors" "$dir/r.safetensors"
T3V_CPU=ref convert "$m/$w" --dtype q4_k -o "$dir/ref.gguf" # the same bytes on every CPU
cmp "$dir/ref.gguf" "$dir/q4_k.gguf"
"$t3v" init --quiet --config tiny --parts dit -o "$dir/tiny" > /dev/null # rows of 64 and 96: no whole blocks of 256
"$t3v" convert "$dir/tiny/$w" --dtype q4_k -o "$dir/tiny.gguf" 2>&1 | grep -q "matrices stay F16"

echo "# layouts, there and back"
for layout in diffusers comfyui; do
    convert "$m" --format $layout -o "$dir/$layout"
    case $layout in
        diffusers) model=$dir/diffusers ;;
        comfyui)
            model=$dir/comfyui/diffusion_models/wan.safetensors
            cp "$m/config.json" "$m/t3v.json" "$dir/comfyui/diffusion_models"
            ;;
    esac
    velocity "$model" "$dir/q.safetensors"
    cmp "$dir/v.safetensors" "$dir/q.safetensors"
    [ $layout = comfyui ] && continue
    "$t3v" generate --quiet --model "$model" --prompt "$prompt" --size 64x64 --frames 5 --steps 1 --cfg 1 --precision f32 \
        -o "$dir/y.y4m" > /dev/null
    cmp "$dir/x.y4m" "$dir/y.y4m"
done
convert "$dir/diffusers" --format original -o "$dir/back"
for f in $w Wan2.1_VAE.pth models_t5_umt5-xxl-enc-bf16.pth google/umt5-xxl/spiece.model; do
    [ -s "$dir/back/$f" ]
done
cmp "$m/$w" "$dir/back/$w"
velocity "$dir/back" "$dir/q.safetensors"
cmp "$dir/v.safetensors" "$dir/q.safetensors"

echo "# a text encoder in GGUF, its tokenizer inside"
convert "$m/models_t5_umt5-xxl-enc-bf16.pth" -o "$dir/t5.gguf"
"$t3v" text --quiet --model "$m" --text-encoder "$dir/t5.gguf" --prompt "$prompt" --precision f32 -o "$dir/c.safetensors" > /dev/null
cmp "$dir/context.safetensors" "$dir/c.safetensors"
"$t3v" inspect --json "$dir/t5.gguf" | grep -q '"tokenizer.ggml.tokens": "261 strings"'
convert "$m/models_t5_umt5-xxl-enc-bf16.pth" -o "$dir/t5q.gguf" --dtype q8_0
"$t3v" inspect --json "$dir/t5q.gguf" | grep -q '"Q8_0"'

echo "# random models of every layout are the converted original's"
"$t3v" init --quiet --config starter --dtype q4_k --seed 4 --parts dit -o "$dir/packed" > /dev/null
convert "$dir/q4_k.gguf" --dtype f32 -o "$dir/p.safetensors"
convert "$dir/packed" --dtype f32 -o "$dir/q.safetensors" --force # tensors in another order in the GGUF file
cmp "$dir/p.safetensors" "$dir/q.safetensors"
velocity "$dir/packed" "$dir/q.safetensors"
"$t3v" init --quiet --config tiny-t2v-a14b --dtype f32 -o "$dir/two" > /dev/null
for layout in diffusers comfyui; do
    convert "$dir/two" --format $layout -o "$dir/two-$layout"
    "$t3v" init --quiet --config tiny-t2v-a14b --dtype f32 --layout $layout -o "$dir/new-$layout" > /dev/null
    (cd "$dir/two-$layout" && find . -type f) | while read -r f; do cmp "$dir/two-$layout/$f" "$dir/new-$layout/$f"; done
    [ "$(find "$dir/two-$layout" -name '*.safetensors' | wc -l)" = 4 ]
done
for part in transformer/config.json transformer_2/config.json vae/config.json text_encoder/config.json \
    scheduler/scheduler_config.json model_index.json tokenizer/spiece.model; do
    [ -s "$dir/two-diffusers/$part" ]
done
grep -q '"boundary_ratio": 0.875' "$dir/two-diffusers/model_index.json"
convert "$dir/two-diffusers" --format original -o "$dir/two-back"
for f in high_noise_model/$w low_noise_model/$w; do cmp "$dir/two/$f" "$dir/two-back/$f"; done

echo "# LoRA merged is LoRA on the fly"
lora=$(header "$m/$w" | sed -E 's/"([^"]*)\.weight":/"diffusion_model.\1.diff":/g; s/"([^"]*)\.bias":/"diffusion_model.\1.diff_b":/g;
    s/"([^"]*modulation)":/"diffusion_model.\1.diff":/g')
with_header "$m/$w" "$lora" > "$dir/lora.safetensors"
convert "$m/$w" --lora "$dir/lora.safetensors:0.1" -o "$dir/merged.safetensors"
velocity "$dir/merged.safetensors" "$dir/q.safetensors"
velocity "$m" "$dir/r.safetensors" --lora "$dir/lora.safetensors:0.1"
"$compare" "$dir/q.safetensors" velocity "$dir/r.safetensors" velocity 1e-5
if "$compare" "$dir/q.safetensors" velocity "$dir/v.safetensors" velocity 1e-2 > /dev/null 2>&1; then exit 1; fi
lora=$(header "$dir/two/low_noise_model/$w" | sed -E 's/"([^"]*)\.weight":/"\1.diff":/g; s/"([^"]*)\.bias":/"\1.diff_b":/g;
    s/"([^"]*modulation)":/"\1.diff":/g')
with_header "$dir/two/low_noise_model/$w" "$lora" > "$dir/low.safetensors"
convert "$dir/two" --format original --lora "low:$dir/low.safetensors:0.5" -o "$dir/two-merged" # the other expert stays
cmp "$dir/two/high_noise_model/$w" "$dir/two-merged/high_noise_model/$w"
convert "$dir/two/low_noise_model/$w" --lora "$dir/low.safetensors:0.5" -o "$dir/low-merged.safetensors"
cmp "$dir/low-merged.safetensors" "$dir/two-merged/low_noise_model/$w"

echo "# what is refused"
refused 2 "is the input" "$m/$w" -o "$m/$w" --force
ln -s "$m/$w" "$dir/link.safetensors"
refused 2 "is the input" "$m/$w" -o "$dir/link.safetensors" --force
refused 1 "is there already" "$m/$w" -o "$dir/a.safetensors"
refused 2 "a type of GGUF" "$m/$w" -o "$dir/n.safetensors" --dtype q8_0
refused 2 "transformers and text encoders" "$m/Wan2.1_VAE.pth" -o "$dir/n.gguf"
refused 2 "not one of the types" "$m/$w" -o "$dir/n.gguf" --dtype q9_0
refused 2 "neither .safetensors" "$m/$w" -o "$dir/n.bin2"
refused 2 "one of two experts" "$m/$w" --lora "high:$dir/lora.safetensors" -o "$dir/n.safetensors"
refused 1 "fit no weight" "$dir/tiny/$w" --lora "$dir/lora.safetensors" -o "$dir/n.safetensors"
[ -z "$(ls "$dir" | grep '^n\.' || true)" ]

echo "# 1.1 GB in little memory; killed, stopped, without room: nothing under the final name"
row='"dtype":"F32","shape":[8192,32768],"data_offsets":[65600,1073807424]'
big="{\"patch_embedding.weight\":{\"dtype\":\"F32\",\"shape\":[64,64,1,2,2],\"data_offsets\":[0,65536]},\"head.modulation\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[65536,65600]},\"text_embedding.0.weight\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[65600,65600]},\"blocks.0.self_attn.q.weight\":{$row}}"
{ u64 ${#big}; printf %s "$big"; } > "$dir/big.safetensors"
truncate -s $((8 + ${#big} + 1073807424)) "$dir/big.safetensors"
"$t3v" convert --quiet --json "$dir/big.safetensors" --dtype q4_0 -o "$dir/big.gguf" > "$dir/report"
peak=$(sed -n 's/.*"peak_rss_bytes": \([0-9]*\).*/\1/p' "$dir/report")
echo "    peak $((peak >> 20)) MiB"
[ "$peak" -lt $((80 << 20)) ]
rm "$dir/big.gguf"
gone() { [ ! -e "$dir/big.gguf" ]; }
for signal in KILL INT; do
    "$t3v" convert --quiet "$dir/big.safetensors" --dtype q4_0 -o "$dir/big.gguf" > /dev/null 2>&1 &
    pid=$!
    for _ in $(seq 400); do [ -n "$(find "$dir" -name '*big.gguf*' -size +4M)" ] && break; sleep 0.01; done
    kill -$signal $pid
    rc=0
    wait $pid || rc=$?
    [ $rc = $([ $signal = INT ] && echo 130 || echo 137) ]
    gone
    [ $signal = KILL ] || [ -z "$(find "$dir" -name '*big.gguf*')" ]
    find "$dir" -name '*big.gguf*' -delete
done
(
    trap '' XFSZ
    ulimit -f 20480
    refused 1 "big.gguf" "$dir/big.safetensors" --dtype q4_0 -o "$dir/big.gguf"
)
gone
[ -z "$(find "$dir" -name '*big.gguf*')" ]
