#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains the starter model: the segments of models/starter/recipe in order, each from the weights of the one before.
# usage: models/starter/train.sh [FIRST [LAST]]     (from the repository's root, after `make`)
# Weights, logs and state of segment N are in build/starter/N; an interrupted segment is continued. `stop` below is
# where a segment ended that was cut short when these weights were made.
set -euo pipefail
cd "$(dirname "$0")/../.."
first=${1:-1}
last=${2:-8}
stop=([1]=642 [2]=1631 [6]=2070)
mkdir -p build/starter
for n in $(seq "$first" "$last"); do
    config=$(echo models/starter/recipe/"$n"-*.json)
    dir=build/starter/$n
    [ ! -e "$dir/done" ] || continue
    resume=()
    [ ! -e "$dir/state/train.safetensors" ] || resume=(--resume)
    if [ "$n" = 5 ] && [ ! -e build/starter/start-5/config.json ]; then # random DiT and text encoder, the VAE of segment 4
        build/t3v init -q --config starter --parts dit,text,tokenizer --seed 21 \
            --tokenizer models/starter/google/umt5-xxl/spiece.model -o build/starter/start-5 > /dev/null
        cp build/starter/4/Wan2.1_VAE.pth build/starter/start-5/
    elif [ "$n" -gt 5 ]; then # DiT and text encoder of the segment before
        mkdir -p build/starter/start-"$n"
        cp -r build/starter/start-5/{Wan2.1_VAE.pth,google} build/starter/start-"$n"/
        cp build/starter/$((n - 1))/{config.json,diffusion_pytorch_model.safetensors,models_t5_umt5-xxl-enc-bf16.pth} \
            build/starter/start-"$n"/
    fi
    echo "segment $n: $config"
    build/t3v train --config "$config" -o "$dir" "${resume[@]}" ${stop[$n]:+--stop-after "${stop[$n]}"}
    touch "$dir/done"
done
