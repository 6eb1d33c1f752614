#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# kill -9 at moments drawn from a seed, while lists of prompts are made, weights and models converted, models written, clips
# encoded, decoded and compared (and Ctrl-C in one pass): what has its final name is whole, and doing it again gives the same bytes. (Single clips, tuning
# and latents: generate.sh, families.sh, tune.sh, latents.sh.)
set -euo pipefail
t3v=$1
tiny=tests/golden/wan/tiny
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
RANDOM=${T3V_KILL_SEED:-7}

# FOLDER command...: runs it, which writes into the folder, and kills it after a part of the time that it takes when it is left
# alone. A run that was faster leaves nothing to kill: the folder is emptied and the next is given half as long.
killed() {
    local pid folder=$1
    shift
    "$@" > /dev/null 2>&1 &
    pid=$!
    sleep "$(awk -v s="$seconds" -v r=$RANDOM 'BEGIN { print s * r / 32768 }')"
    if kill -9 $pid 2> /dev/null; then
        kills=$((kills + 1))
    else
        seconds=$(awk -v s="$seconds" 'BEGIN { print s / 2 }')
        rm -rf "$folder"
        mkdir "$folder"
    fi
    wait $pid 2> /dev/null || true
}
timed() { # command...
    local start=$EPOCHREALTIME
    "$@" > /dev/null
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')
}
whole() { # FOLDER OF_THE_WHOLE_ONES: every final file there is one of those, but for a comparison's, which have times in them
    local file
    while read -r file; do
        cmp "$1/$file" "$2/$file" || { echo "after kill $kills, $file is not whole"; exit 1; }
    done < <(cd "$1" 2> /dev/null && find . -type f ! -name '*.tmp' ! -name '*.tmp-*' ! -name '*.t3v-state' ! -name compare.json ! -name index.html ! -name run.json)
}
echo "# lists of prompts"
for name in one two three four; do printf '%s{"prompt_en": "a %s", "data_file": "%s.mp4"}' "${sep:-[}" $name $name; sep=,; done > "$dir/list.json"
echo ']' >> "$dir/list.json"
batch=(generate --quiet --model $tiny --size 48x32 --frames 5 --steps 4 --cfg 5 --seed 3 --save-every 0 --prompts "$dir/list.json")
timed "$t3v" "${batch[@]}" --out-dir "$dir/whole"
kills=0
for try in 1 2 3 4 5 6 7 8; do
    [ $kills -lt 3 ] || break
    killed "$dir/cut" "$t3v" "${batch[@]}" --out-dir "$dir/cut"
    whole "$dir/cut" "$dir/whole"
done
[ $kills -ge 1 ]
"$t3v" "${batch[@]}" --out-dir "$dir/cut" > /dev/null
whole "$dir/whole" "$dir/cut"
[ -z "$(find "$dir/cut" -name '*.t3v-state')" ]

echo "# weights in another type, in one file and in several"
"$t3v" init -q --config tiny --parts dit --seed 3 -o "$dir/m" > /dev/null
weights=$dir/m/diffusion_pytorch_model.safetensors
for what in "q8_0 a.gguf" "bf16 a.pth" "f16 a.safetensors --shard-size 300K"; do
    read -r type out more <<< "$what"
    mkdir "$dir/w.$out" "$dir/c.$out"
    # shellcheck disable=SC2086
    convert() { "$t3v" convert -q --force --dtype "$type" $more "$weights" -o "$1"; }
    timed convert "$dir/w.$out/$out"
    kills=0
    for try in 1 2; do
        # shellcheck disable=SC2086
        killed "$dir/c.$out" "$t3v" convert -q --force --dtype "$type" $more "$weights" -o "$dir/c.$out/$out"
        whole "$dir/c.$out" "$dir/w.$out"
    done
    convert "$dir/c.$out/$out"
    whole "$dir/w.$out" "$dir/c.$out"
done

echo "# a model"
init=(init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 --tokenizer $tiny/google/umt5-xxl/spiece.model)
timed "$t3v" "${init[@]}" -o "$dir/model"
kills=0
for try in 1 2 3; do
    killed "$dir/cut-model" "$t3v" "${init[@]}" -o "$dir/cut-model"
    whole "$dir/cut-model" "$dir/model"
    rm -rf "$dir/cut-model"
done

echo "# a whole model in another layout"
timed "$t3v" convert -q --format diffusers "$dir/model" -o "$dir/whole-model"
for try in 1 2; do
    killed "$dir/cut-model" "$t3v" convert -q --format diffusers "$dir/model" -o "$dir/cut-model"
    whole "$dir/cut-model" "$dir/whole-model"
done
"$t3v" convert -q --force --format diffusers "$dir/model" -o "$dir/cut-model" > /dev/null
whole "$dir/whole-model" "$dir/cut-model"

echo "# numbers of a clip, and its frames"
"$t3v" generate --quiet --model $tiny --size 64x64 --frames 9 --steps 1 --cfg 1 --prompt x -o "$dir/clip.y4m" > /dev/null
mkdir "$dir/w.clip" "$dir/c.clip"
code() { "$t3v" encode -q --model $tiny -i "$dir/clip.y4m" -o "$1/a.safetensors" && "$t3v" decode -q --model $tiny -i "$1/a.safetensors" -o "$1/a.y4m"; }
timed code "$dir/w.clip"
for try in 1 2; do
    killed "$dir/c.clip" "$t3v" encode -q --model $tiny -i "$dir/clip.y4m" -o "$dir/c.clip/a.safetensors"
    killed "$dir/c.clip" "$t3v" decode -q --model $tiny -i "$dir/w.clip/a.safetensors" -o "$dir/c.clip/a.y4m"
    whole "$dir/c.clip" "$dir/w.clip"
done
code "$dir/c.clip" > /dev/null
whole "$dir/w.clip" "$dir/c.clip"

echo "# one pass of the transformer, stopped by Ctrl-C and gone on with"
latent=$dir/latent.safetensors # 5x32x32 tokens, of numbers that are the weights'
head='{"latent":{"dtype":"F32","shape":[16,5,32,64],"data_offsets":[0,655360]}}'
{ printf "\\x$(printf %x ${#head})\\0\\0\\0\\0\\0\\0\\0%s" "$head"; tail -c 655360 $tiny/diffusion_pytorch_model.safetensors; } > "$latent"
pass=(dit --model $tiny --latent "$latent" --context tests/golden/wan/dit.safetensors --timestep 700 --json)
timed "$t3v" "${pass[@]}" -o "$dir/whole.safetensors"
kills=0
for try in $(seq 40); do
    rm -f "$dir"/cut.safetensors*
    (exec "$t3v" "${pass[@]}" -o "$dir/cut.safetensors" > /dev/null 2>&1) & pid=$!
    sleep "$(awk -v s="$seconds" -v r=$RANDOM 'BEGIN { print s * r / 32768 }')"
    kill -INT $pid 2> /dev/null || true
    wait $pid || true
    [ ! -e "$dir/cut.safetensors.t3v-state" ] || break
done
[ ! -e "$dir/cut.safetensors" ]
rc=0; "$t3v" "${pass[@]}" --timestep 600 --resume -o "$dir/cut.safetensors" 2> "$dir/err" || rc=$?
[ $rc = 2 ] && grep -q "other settings" "$dir/err"
"$t3v" "${pass[@]}" --resume -o "$dir/cut.safetensors" | grep -q '"blocks":[1-4],'
cmp "$dir/whole.safetensors" "$dir/cut.safetensors"
[ ! -e "$dir/cut.safetensors.t3v-state" ]

[ -e "$(dirname "$t3v")/libt3v-av.so" ] || exit 0
echo "# a comparison"
side=(compare -q --model $tiny --size 32x32 --frames 5 --steps 1 --cfg 1 --count 2 --variant plan=full --variant name=b,plan=t3)
timed "$t3v" "${side[@]}" -o "$dir/whole-side"
for try in 1 2; do
    killed "$dir/cut-side" "$t3v" "${side[@]}" -o "$dir/cut-side"
    whole "$dir/cut-side" "$dir/whole-side"
done
"$t3v" "${side[@]}" -o "$dir/cut-side" > /dev/null
[ -s "$dir/cut-side/index.html" ]
whole "$dir/cut-side" "$dir/whole-side"
[ "$(find "$dir/cut-side" -name '*.mp4' | wc -l)" = 4 ]
