#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Memory that runs out: every place in the program that allocates fails in a run of its own (tests/fault/fault.c). Each ends in
# an error that speaks of memory and leaves nothing; under AddressSanitizer nothing leaks either.
# T3V_FAULT_DEPTH (default 1) calls tell places apart, T3V_FAULT_HITS (default 1) allocations of each place fail. Of commands whose
# places others have too, T3V_FAULT_MOST (default 40; 0: all) are taken, spread over the command.
set -euo pipefail
t3v=$1
fault=${T3V_BUILD:?}/tests/t3v-fault
tiny=tests/golden/wan/tiny
depth=${T3V_FAULT_DEPTH:-1} hits=${T3V_FAULT_HITS:-1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
most=${T3V_FAULT_MOST:-40}
export OMP_NUM_THREADS=1 T3V_FAULT_MOST=0

failing() { # WHAT FINAL command...: what it writes goes to $dir/out
    local what=$1 final=$2 start=$SECONDS
    shift 2
    mkdir -p "$dir/out"
    "$fault" "$dir/out" "$final" "$depth" "$hits" "$@" > "$dir/said" || { echo "$what:"; cat "$dir/said"; exit 1; }
    echo "$what: $(tail -n 1 "$dir/said"), $((SECONDS - start)) s"
}

"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 --tokenizer $tiny/google/umt5-xxl/spiece.model -o "$dir/model" > /dev/null
"$t3v" data synth -q --count 2 --seed 5 --size 64x48 --frames 5 --format y4m -o "$dir/v"
"$t3v" data latents -q --model "$dir/model" --videos "$dir/v" --size 64x48 --frames 5 -o "$dir/data" > /dev/null
printf '{"model":"%s","plan":"t3:blocks=1x3x2/2x1x1","steps":2,"batch":1,"save_every":1,"train":"lora","rank":2}' "$dir/model" > "$dir/tune.json"
"$t3v" tune -q --precision f32 --config "$dir/tune.json" --data "$dir/data" -o "$dir/tuned"
cat > "$dir/plan" <<'PLAN'
layers 0 -> full
self layers 1 heads 0-1 steps 0-1 -> tile:k=1 # a comment
else -> t3:blocks=1x1x2/1x2x1
PLAN
printf '[{"prompt_en": "a", "data_file": "one.y4m"}, {"prompt_en": "a", "data_file": "two.y4m"}]' > "$dir/list.json"

one=(--size 32x32 --frames 1 --threads 1)
failing "generate, a plan of rules" a.y4m generate --model $tiny --size 32x32 --frames 5 --threads 1 --steps 2 --cfg 5 \
    --plan "@$dir/plan" --save-every 0 --prompt "a heron <b>&amp; Ａ" -o "$dir/out/a.y4m"
failing "generate, attention with a state" a.png generate --model $tiny "${one[@]}" --steps 3 --cfg 5 \
    --plan rettention:warm=0,window=1,period=2 --reuse teacache --save-every 0 --prompt "" -o "$dir/out/a.png"
failing "generate, a LoRA" a.png generate --model "$dir/model" "${one[@]}" --steps 1 --cfg 1 --lora "$dir/tuned/lora.safetensors:0.5" \
    --prompt x -o "$dir/out/a.png"
failing "generate, a list" +set/one.y4m generate --model $tiny "${one[@]}" --steps 1 --cfg 1 --prompts "$dir/list.json" --out-dir "$dir/out/set"
failing "plan" - plan --plan jenga --model $tiny --grid 3,4,5 --json
failing "plan, a picture" a.svg plan --plan "@$dir/plan" --grid 2,4,4 --layers 3 --svg "$dir/out/a.svg"
failing "inspect, a model" - inspect "$dir/model"
failing "inspect, a .pth file" - inspect $tiny/Wan2.1_VAE.pth --json
failing "init" +m/diffusion_pytorch_model.safetensors init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 \
    --tokenizer $tiny/google/umt5-xxl/spiece.model -o "$dir/out/m"
dit=$dir/model/diffusion_pytorch_model.safetensors
failing "convert, to GGUF" a.gguf convert -q --dtype q8_0 "$dit" -o "$dir/out/a.gguf"
"$t3v" convert -q --dtype q8_0 "$dit" -o "$dir/a.gguf"
failing "convert, from GGUF to shards" a.safetensors.index.json convert -q --dtype f32 --shard-size 500K "$dir/a.gguf" -o "$dir/out/a.safetensors"
"$t3v" convert -q --shard-size 500K "$dit" -o "$dir/b.safetensors"
failing "convert, from shards to .pth" a.pth convert -q "$dir/b.safetensors.index.json" -o "$dir/out/a.pth"
failing "text" a.safetensors text --model $tiny --threads 1 --prompt "a b" -o "$dir/out/a.safetensors"
failing "encode" a.safetensors encode --model $tiny --threads 1 -i "$dir/v/clip_000000.y4m" -o "$dir/out/a.safetensors"
failing "data synth" v/captions.json data synth -q --count 1 --seed 5 --size 64x48 --frames 5 --format y4m -o "$dir/out/v"
printf 'file,caption\nclip_000000.y4m,a\nclip_000001.y4m,"b, c"\n' > "$dir/v.csv"
failing "data latents" d/index.json data latents -q --model "$dir/model" --videos "$dir/v" --captions "$dir/v.csv" --size 64x48 --frames 5 \
    --threads 1 -o "$dir/out/d"
failing "tune" +t/lora.safetensors tune -q --precision f32 --threads 1 --config "$dir/tune.json" --data "$dir/data" -o "$dir/out/t"
failing "eval synth" - eval synth --real 1 --size 64x64 --frames 5 --threads 1
failing "eval video" - eval video --ref "$dir/v/clip_000000.y4m" --test "$dir/v/clip_000001.y4m" --threads 1

echo "# layouts, packed weights, images, experts"
T3V_FAULT_MOST=$most
"$t3v" init -q --config tiny --layout diffusers --seed 3 -o "$dir/diffusers" > /dev/null
"$t3v" init -q --config tiny --parts dit,vae --dtype q8_0 --seed 3 -o "$dir/gguf" > /dev/null
"$t3v" convert -q --dtype q8_0 "$dir/diffusers/text_encoder/model.safetensors" -o "$dir/gguf/umt5.gguf" > /dev/null
for what in diffusers gguf; do
    failing "generate, $what" a.png generate --model "$dir/$what" "${one[@]}" --steps 1 --cfg 5 --prompt x -o "$dir/out/a.png"
    T3V_FAULT_MOST=0 depth=4 failing "inspect, $what" - inspect "$dir/$what"
done
"$t3v" generate -q --model $tiny --size 48x32 --frames 1 --steps 1 --cfg 1 --prompt x -o "$dir/pic.png" > /dev/null
for what in tiny-i2v tiny-ti2v tiny-t2v-a14b; do
    "$t3v" init -q --config $what --seed 3 -o "$dir/$what" > /dev/null
    image=(--image "$dir/pic.png")
    [ $what != tiny-t2v-a14b ] || image=()
    failing "generate, $what" a.png generate --model "$dir/$what" "${one[@]}" --steps 2 --cfg 5 --prompt x "${image[@]}" -o "$dir/out/a.png"
done
"$t3v" encode -q --model $tiny -i "$dir/v/clip_000000.y4m" -o "$dir/latent.safetensors" > /dev/null
failing "decode" a.y4m decode --model $tiny --threads 1 -i "$dir/latent.safetensors" -o "$dir/out/a.y4m"
failing "convert, a model to Diffusers" +m/model_index.json convert -q --format diffusers "$dir/model" -o "$dir/out/m"
failing "convert, a model to single files" +m/diffusion_models/wan.safetensors convert -q --format comfyui --dtype f8_e4m3 \
    "$dir/diffusers" -o "$dir/out/m"
failing "convert, with a LoRA" a.safetensors convert -q --lora "$dir/tuned/lora.safetensors:0.5" --dtype f8_e4m3 "$dit" -o "$dir/out/a.safetensors"
if [ -e "$(dirname "$t3v")/libt3v-av.so" ]; then
    failing "compare" +c/clips/full/00000.mp4 compare -q --model $tiny --size 32x32 --frames 5 --steps 1 --cfg 1 --count 1 --threads 1 \
        --variant plan=full --variant name=b,plan=t3 -o "$dir/out/c"
fi
