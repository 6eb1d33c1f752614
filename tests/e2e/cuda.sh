#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole program on the CUDA module's kernels, which the emulator runs: text, transformer with gradients, VAE both ways
# and a clip, against the CPU. What the host side forgets to copy shows as a crash: it cannot touch the device's memory.
set -euo pipefail
t3v=$1
golden=tests/golden/wan
tiny=$golden/tiny
compare=${T3V_BUILD:?}/tests/compare_tensors
export T3V_CUDA=${T3V_CUDA:-$T3V_BUILD/tests/libt3v-cuda-emulated.so} # on a card: build/libt3v-cuda.so
[ -e "$T3V_CUDA" ] || exit 77
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
both() { # command...: runs it on either device; @ in its words is cpu or cuda
    local device
    for device in cpu cuda; do "${@//@/$device}" --quiet --device "$device" >/dev/null; done
}
same() { # NAME TENSOR LIMIT: of $dir/NAME-cuda and $dir/NAME-cpu
    "$compare" "$dir/$1-cuda.safetensors" "$2" "$dir/$1-cpu.safetensors" "$2" "$3" || { echo "$1: $2" >&2; exit 1; }
}

# Sums in another order: 1e-5 in f32. Roundings to bf16 that fall otherwise: some parts of 1/256.
for precision in f32 bf16; do
    limit=1e-4
    [ $precision = f32 ] || limit=2e-2
    both "$t3v" text --precision $precision --model $tiny --prompt "A red ball on the beach" -o "$dir/text-@.safetensors"
    same text context $limit
    # joint terms, selection, a linear term, an epilogue
    plans="full t3"
    [ $precision = f32 ] || plans="t3 jenga hybrid rettention"
    for plan in $plans; do
        both "$t3v" dit --precision $precision --model $tiny --plan "$plan" --latent $golden/dit.safetensors \
            --context $golden/dit.safetensors --timestep 731 -o "$dir/dit-@.safetensors"
        same dit velocity $limit
    done
done

both "$t3v" dit --precision f32 --model $tiny --plan t3 --latent $golden/dit.safetensors --target $golden/dit.safetensors \
    --context $golden/dit.safetensors --timestep 731 -o "$dir/dit-@.safetensors" --grad "$dir/grad-@.safetensors"
for name in loss grad_latent grad_context grad.patch_embedding.weight grad.blocks.0.self_attn.q.weight \
    grad.blocks.2.self_attn.norm_k.weight grad.blocks.1.cross_attn.k.bias grad.blocks.4.ffn.2.weight \
    grad.blocks.3.modulation grad.blocks.0.norm3.weight grad.time_projection.1.weight grad.head.head.bias; do
    same grad $name 1e-4
done

both "$t3v" decode --precision bf16 --model $tiny -i $golden/vae.safetensors -o "$dir/video-@.safetensors"
same video video 2e-2
both "$t3v" encode --precision f32 --model $tiny -i $golden/vae.safetensors -o "$dir/latent-@.safetensors"
same latent latent 1e-4

# A data set for training; scores of a model's clips; a bench's line.
"$t3v" data synth --count 1 --seed 3 --size 32x32 --frames 5 --format y4m -o "$dir/videos" --quiet >/dev/null
both "$t3v" data latents --precision f32 --model $tiny --videos "$dir/videos" --size 32x32 --frames 5 -o "$dir/latents-@"
for device in cpu cuda; do
    cp "$dir/latents-$device"/clips/*.safetensors "$dir/clips-$device.safetensors"
    "$t3v" eval synth --precision f32 --model $tiny --count 1 --seed 1 --size 32x32 --frames 5 --steps 1 --json --quiet \
        --device $device | sed 's/"seconds.*//' >"$dir/eval-$device"
done
same clips latent 1e-2 # kept in bf16
same clips context 1e-4
# A pixel may be rounded the other way.
paste <(grep -o '": [0-9.e-]*' "$dir/eval-cpu") <(grep -o '": [0-9.e-]*' "$dir/eval-cuda") | awk '
    { d = $2 - $4; n++; if ((d < 0 ? -d : d) > 0.01 + 0.05 * $2) exit 1 } END { exit n < 5 }' ||
    { echo "eval: other scores: $(cat "$dir/eval-cpu" "$dir/eval-cuda")" >&2; exit 1; }
# Another shape, that no tile divides: 2x3x7 tokens.
"$t3v" data synth --count 1 --seed 4 --size 112x48 --frames 5 --format y4m -o "$dir/wide" --quiet >/dev/null
for precision in f32 bf16; do
    limit=1e-4
    [ $precision = f32 ] || limit=2e-2
    both "$t3v" encode --precision $precision --model $tiny -i "$dir/wide/clip_000000.y4m" -o "$dir/odd-@.safetensors"
    same odd latent $limit
    both "$t3v" dit --precision $precision --model $tiny --plan t3 --latent "$dir/odd-cpu.safetensors" \
        --context $golden/dit.safetensors --timestep 345 -o "$dir/odd_dit-@.safetensors"
    same odd_dit velocity $limit
done
# A LoRA file, on the fly and merged; blocks that come one by one (5 of them, in 2 slots).
printf '{"model":"%s","plan":"full","steps":2,"batch":1,"train":"lora","rank":2}' $tiny >"$dir/tune.json"
"$t3v" tune -q --precision f32 --config "$dir/tune.json" --data "$dir/latents-cpu" -o "$dir/tuned"
probe() { # NAME options: the velocity on either device, in a model with the LoRA
    local name=$1
    shift
    both "$t3v" dit --precision f32 --model $tiny --plan full --latent $golden/dit.safetensors --context $golden/dit.safetensors \
        --timestep 731 --lora "$dir/tuned/lora.safetensors:100" -o "$dir/$name-@.safetensors" "$@"
    same "$name" velocity 1e-4
}
probe lora
probe merged --lora-merge
probe streamed --weights streamed
probe both --weights streamed --lora-merge
if "$compare" "$dir/lora-cuda.safetensors" velocity "$dir/dit-cpu.safetensors" velocity 1e-3 >"$dir/said"; then
    echo "the LoRA file changed nothing" >&2
    exit 1
fi
# Quantised blocks, which the host expands as it sends them; and who chooses when nobody says.
mkdir "$dir/q"
cp $tiny/config.json "$dir/q"
"$t3v" convert $tiny --dtype q8_0 --quiet -o "$dir/q/model.gguf" >/dev/null
probe packed --weights streamed --model "$dir/q"
"$t3v" generate --model $tiny --prompt x --size 32x32 --frames 1 --dry-run --memory-limit 1 --device cuda -o "$dir/x.png" 2>"$dir/said" && exit 1
grep -q "blocks are streamed" "$dir/said" || { echo "not streamed: $(cat "$dir/said")" >&2; exit 1; }
line=$("$t3v" bench gemm --config tiny --rows 8 --precision bf16 --repeat 1 --device cuda --json --quiet)
for key in percent_of_peak percent_of_bandwidth peak_device_bytes; do
    [ "$(grep -c "\"$key\":[0-9]" <<<"$line")" = 4 ] || { echo "bench gemm: no $key: $line" >&2; exit 1; }
done

# A card that is too small, for the weights or for the work: one line with the bytes.
small() { # KIB PATTERN command...
    local kib=$1 pattern=$2
    shift 2
    ! T3V_EMULATED_KIB=$kib "$@" --quiet --device cuda 2>"$dir/said" >/dev/null || { echo "$*: fits $kib KiB" >&2; exit 1; }
    [ "$(wc -l <"$dir/said")" = 1 ] && grep -q -- "$pattern" "$dir/said" || { echo "$*: $(cat "$dir/said")" >&2; exit 1; }
}
case $T3V_CUDA in *emulated*)
    pass=("$t3v" dit --precision f32 --model $tiny --plan full --latent $golden/dit.safetensors --context $golden/dit.safetensors
        --timestep 731 -o "$dir/x.safetensors")
    small 0 "the weights take .* GiB of the emulator, which has 0.00 of 0.00 GiB free" "${pass[@]}"
    small 1200 "the emulator has no .* MiB more .*--weights streamed" "${pass[@]}"
    ;;
esac

# Steps that reuse what the blocks added, with guidance; blocks come one by one.
both "$t3v" generate --precision f32 --model $tiny --prompt "a red ball" --size 32x32 --frames 5 --steps 3 \
    --reuse steps:0,2 --weights streamed --save-latent "$dir/clip-@.safetensors" -o "$dir/clip-@.y4m"
same clip latent 1e-4

# Products of 8-bit floats, beside f32 on the CPU: 4 to 5 % of the velocity; far from bf16's 0.4 %, or they were not made so.
eight() { # NAME options: both ways, and the same bytes when blocks come one by one
    local name=$1 how
    shift
    "$t3v" dit --precision f32 --latent $golden/dit.safetensors --context $golden/dit.safetensors --timestep 731 --plan full \
        --quiet -o "$dir/$name-cpu.safetensors" "$@" >/dev/null
    for how in streamed resident; do
        "$t3v" dit --precision f32 --latent $golden/dit.safetensors --context $golden/dit.safetensors --timestep 731 --plan full \
            --quiet --device cuda --act fp8 --weights $how -o "$dir/$name-$how.safetensors" "$@" >/dev/null
    done
    cmp "$dir/$name-streamed.safetensors" "$dir/$name-resident.safetensors" || { echo "fp8, $name: streamed differs" >&2; exit 1; }
    mv "$dir/$name-resident.safetensors" "$dir/$name-cuda.safetensors"
    same "$name" velocity 8e-2
    if "$compare" "$dir/$name-cuda.safetensors" velocity "$dir/$name-cpu.safetensors" velocity 1e-2 >"$dir/said"; then
        echo "fp8, $name: $(cat "$dir/said"), too near to be 8 bits" >&2
        exit 1
    fi
}
if "$t3v" bench gemm --config tiny --rows 8 --repeat 1 --device cuda --act fp8 --quiet >"$dir/lines" 2>"$dir/said"; then
    [ "$(grep -c fp8 "$dir/lines")" = 3 ] || { echo "bench gemm --act fp8: $(cat "$dir/lines")" >&2; exit 1; }
    mkdir "$dir/e4m3"
    cp $tiny/config.json "$dir/e4m3"
    "$t3v" convert $tiny --dtype f8_e4m3 --quiet -o "$dir/e4m3/model.safetensors" >/dev/null
    eight eight --model $tiny
    eight stored --model "$dir/e4m3"
    eight blocks --model "$dir/q"
    eight merged --model $tiny --lora "$dir/tuned/lora.safetensors:100" --lora-merge
    "$t3v" generate --model $tiny --prompt x --size 32x32 --frames 1 --steps 1 --cfg 1 --device cuda --act fp8 --json --quiet -o "$dir/x.png" |
        grep -q '"act": *"fp8"'
    # A dry run counts one byte for a weight instead of two, and four for a row: of 5 layers of 8 d d + 2 d f, all 256.
    "$t3v" init --config tiny-t2v --parts dit,vae,text,tokenizer -o "$dir/wide" >/dev/null 2>&1
    bytes() {
        "$t3v" generate --model "$dir/wide" --prompt x --size 32x32 --frames 1 --precision bf16 --device cuda --dry-run --json -o "$dir/x.png" \
            "$@" 2>/dev/null | sed -n 's/.*"peak_bytes": \{0,1\}\([0-9]*\).*/\1/p'
    }
    saved=$(($(bytes --weights resident) - $(bytes --weights resident --act fp8))) weights=$((5 * 10 * 256 * 256))
    [ $saved -gt $((weights * 9 / 10)) ] && [ $saved -lt $((weights * 11 / 10)) ] || { echo "fp8 saves $saved bytes of $weights" >&2; exit 1; }
else
    grep -q "multiplies no 8-bit floats" "$dir/said" || { cat "$dir/said" >&2; exit 1; }
    echo "no products of 8-bit floats: $(cat "$dir/said")"
fi
rc=0
T3V_CARD=sm_80 "$t3v" generate --model $tiny --prompt x --size 32x32 --frames 1 \
    --device cuda --act fp8 -o "$dir/old.png" 2>"$dir/said" || rc=$?
[ $rc = 1 ] && grep -q "8.9 or later" "$dir/said" || { echo "an old card: $rc, $(cat "$dir/said")" >&2; exit 1; }
