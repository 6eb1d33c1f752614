#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every family in every layout and type: clips equal the original layout's to the bit where the numbers are equal, are near
# it where the type rounds them, and are then those of the rounded numbers in F32. No layout but the original's has a
# config.json of T3V's; in files and GGUF the shapes tell all. docs/models.md has the table.
set -euo pipefail
[ "${T3V_CPU:-}" != ref ] || { echo "skipped: the reference takes minutes; names and families have their own tests"; exit 77; }
t3v=$(realpath "$1")
compare=$(realpath "${T3V_BUILD:?}/tests/compare_tensors")
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null || true; wait; rm -rf "$dir"' EXIT
cd "$dir"
w=diffusion_pytorch_model.safetensors

convert() { "$t3v" convert --quiet --threads 1 "$@" > /dev/null; } # all is small: two families at once instead
clip() { # MODEL NAME: NAME.y4m and its latent; of two experts each makes a step
    "$t3v" generate --quiet --threads 1 --precision f32 --model "$1" --prompt "a heron" --negative "low quality" --size 64x64 \
        --frames 5 --steps 2 --seed 3 "${image[@]}" --save-latent "$2.safetensors" -o "$2.y4m" > /dev/null
}
same() { # MODEL REFERENCE
    clip "$1" now
    "$compare" now.safetensors latent "$2.safetensors" latent 0 > said || { echo "$PWD/$1: $(cat said)" >&2; exit 1; }
    cmp now.y4m "$2.y4m"
}
near() { # NAME LIMIT
    "$compare" "$1.safetensors" latent reference.safetensors latent "$2" > said || { echo "$PWD/$1: $(cat said)" >&2; exit 1; }
    printf '    %-14s %-8s %s\n' "${PWD##*/}" "$1" "$(sed 's/.*latent *//' said)"
    if cmp -s "$1.safetensors" reference.safetensors; then echo "$PWD/$1: the type changes nothing" >&2; exit 1; fi
}
links() { # DIRECTORY FILE...
    local to=$1 f
    shift
    for f in "$@"; do ln -s "../$f" "$to"; done
}
transformers() { # DIRECTORY ENDING COMMAND...: each transformer as a file in the directory
    local to=$1 ending=$2
    shift 2
    if [ -e original/low_noise_model ]; then
        "$@" original/high_noise_model/$w -o "$to/wan_high_noise$ending"
        "$@" original/low_noise_model/$w -o "$to/wan_low_noise$ending"
    else
        "$@" original/$w -o "$to/wan$ending"
    fi
}

family() { # CONFIG
    local image=() clip_tower= type limit layout f
    case $1 in *-i2v* | *-ti2v) image=(--image "$dir/picture_00001.png") ;; esac
    case $1 in tiny-i2v) clip_tower=original/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth ;; esac
    mkdir "$1"
    cd "$1"
    "$t3v" init --quiet --threads 1 --config "$1" --seed 1 -o original > /dev/null
    clip original reference
    for type in bf16:0 f32:0 f16:1e-6 f8_e4m3:8e-3; do
        limit=${type#*:} type=${type%:*}
        for layout in diffusers comfyui original; do
            convert original --format $layout --dtype $type -o "$layout-$type"
            if [ $limit = 0 ]; then
                same "$layout-$type" reference
            elif [ $layout = diffusers ] || [ "$layout-$type" = original-f8_e4m3 ]; then # whose text encoder stays BF16
                clip "$layout-$type" $type
                near $type $limit
            else
                same "$layout-$type" $type
            fi
        done
        [ $type = bf16 ] || rm -r ./*-$type
    done
    for layout in diffusers comfyui; do # there and back: the same tensors, a .pth in another order
        convert $layout-bf16 --format original -o back
        for f in $(cd original; find . -name '*.pth' -o -name '*.safetensors'); do
            convert "original/$f" -o a.safetensors --force
            convert "back/$f" -o b.safetensors --force
            cmp a.safetensors b.safetensors
        done
        rm -r back
    done
    [ -z "$clip_tower" ] || grep -q '"num_hidden_layers": 3' diffusers-bf16/image_encoder/config.json
    local model=comfyui-bf16/diffusion_models/wan.safetensors
    [ ! -e original/low_noise_model ] || model=comfyui-bf16/diffusion_models/wan_low_noise.safetensors
    same $model reference # a file, told by its neighbours
    for layout in original diffusers-bf16 comfyui-bf16; do
        "$t3v" encode --quiet --threads 1 --model $layout -i reference.y4m -o $layout.encoded > /dev/null
        cmp $layout.encoded original.encoded
    done
    for layout in original diffusers comfyui; do
        convert original --format $layout --shard-size 1M -o shards
        [ "$(find shards -name '*-of-*.safetensors' | wc -l)" -gt 3 ]
        same shards reference
        find shards -name '*.index.json' -delete # the names alone
        same shards reference
        rm -r shards
    done
    for type in f32:0 bf16:0 f16:1e-6 q8_0:2e-3 q6_k:4e-3 q5_k:8e-3 q5_1:0.01 q5_0:0.012 q4_k:0.015 q4_1:0.02 q4_0:0.02 \
        q3_k:0.03; do
        limit=${type#*:} type=${type%:*}
        mkdir gguf numbers
        for f in gguf numbers; do links $f original/Wan2* $clip_tower original/t3v.json; done
        transformers gguf .gguf convert --dtype $type
        convert original/models_t5* --dtype $type -o gguf/umt5.gguf
        if [ $limit = 0 ]; then
            same gguf reference
        else
            clip gguf $type
            near $type $limit
            for f in gguf/*.gguf; do convert "$f" --dtype f32 -o "numbers/$(basename "$f" .gguf).safetensors"; done
            same numbers $type
        fi
        rm -r gguf numbers
    done
    cd ..
}

"$t3v" init --quiet --config tiny -o tiny > /dev/null
"$t3v" generate --quiet --model tiny --size 80x64 --frames 1 --steps 1 --cfg 1 --prompt x -o picture_%05d.png > /dev/null
families() { for f in "$@"; do family $f; done; }
families tiny-t2v tiny-t2v-a14b tiny-i2v &
families tiny-ti2v tiny-i2v-a14b
wait $!
echo "matrix: ok"
