#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A clip with a tiny model of every family, full and t3, from text and from an image: the same bytes with 1 and 2 threads
# and after a kill at any step, also across the switch of experts; and requests that do not fit the model.
set -euo pipefail
[ "${T3V_CPU:-}" != ref ] || { echo "skipped: the reference takes minutes; names and families have their own tests"; exit 77; }
t3v=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
"$t3v" init --config tiny -o tiny > /dev/null 2>&1
"$t3v" generate --quiet --model tiny --size 112x48 --frames 1 --steps 1 --cfg 1 --prompt x -o pic_%05d.png > /dev/null
image=(--image pic_00001.png)
base=(--quiet --prompt "a heron" --negative "low quality" --size 96x64 --frames 9 --steps 6 --seed 3)

run() { # name, options...
    local name=$1
    shift
    "$t3v" generate "${base[@]}" --model "$@" -o "$name.y4m" > /dev/null
}

check() { # name, model, options...
    local name=$1
    shift
    run "$name" "$@" --threads 1
    run two "$@" --threads 2
    cmp "$name.y4m" two.y4m
    for try in 1 2 3; do
        rm -f cut.y4m*
        "$t3v" generate "${base[@]}" --model "$@" --save-every 0 -o cut.y4m > /dev/null &
        pid=$!
        for _ in $(seq 1000); do
            step=$(grep -a -o '"step":"[0-9]*"' cut.y4m.t3v-state 2> /dev/null | tr -dc 0-9 || true)
            [ "${step:-0}" -lt "$try" ] || break
            [ ! -e cut.y4m ] || break
            sleep 0.01
        done
        kill -9 $pid 2> /dev/null || true
        wait $pid 2> /dev/null || true
        "$t3v" generate "${base[@]}" --model "$@" --resume -o cut.y4m > /dev/null
        cmp "$name.y4m" cut.y4m
    done
}
differ() { if cmp -s "$1.y4m" "$2.y4m"; then echo "$1 and $2 are the same" >&2; exit 1; fi }

for config in ${T3V_FAMILIES:-tiny-i2v tiny-ti2v tiny-t2v-a14b tiny-i2v-a14b}; do
    echo "# $config"
    "$t3v" init --config $config -o $config > /dev/null 2>&1
    with=()
    case $config in *-i2v*) with=("${image[@]}") ;; esac
    check full $config "${with[@]}"
    check t3 $config "${with[@]}" --plan t3:blocks=1x2x2/3x1x3
    differ full t3
done

echo "# an image changes the clip; of TI2V it is asked for by none"
check image tiny-ti2v "${image[@]}" --plan t3
run text tiny-ti2v --plan t3
differ image text

echo "# experts: their own guidance, what steps reuse, attention that keeps a state, a list of clips"
run pair tiny-t2v-a14b --cfg 3,4
run same tiny-t2v-a14b --cfg 4
differ pair same
check reuse tiny-t2v-a14b --steps 8 --reuse steps:0,3
check kept tiny-t2v-a14b --steps 8 --plan rettention:warm=0,window=1,period=4
cp pair.y4m first.y4m
printf '[{"prompt_en": "a heron", "data_file": "one.y4m"}, {"prompt_en": "a fox", "data_file": "two.y4m"}]' > list.json
list=(generate --quiet --json --model tiny-t2v-a14b --negative "low quality" --size 96x64 --frames 9 --steps 6 --seed 3
    --cfg 3,4 --prompts list.json --out-dir set)
least=$("$t3v" "${list[@]}" --dry-run | sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p')
for memory in 4G "$least"; do # with the least, one expert at a time
    rm -rf set
    "$t3v" "${list[@]}" --memory-limit "$memory" > "list-$memory.json"
    cmp set/one.y4m pair.y4m
done
grep -q '"both_experts": true' list-4G.json

echo "# dry run and refusals"
"$t3v" generate --model tiny-t2v-a14b --steps 40 --shift 12 --dry-run | grep -q '^experts  26 of the steps for high noise, 14 for low; one at a time'
bad() { # words, arguments...
    local words=$1 rc=0
    shift
    "$t3v" generate "${base[@]}" "$@" -o bad.y4m > out 2> err || rc=$?
    if [ $rc = 0 ] || ! grep -q -- "$words" err; then
        echo "t3v $*: exit $rc, said: $(cat err)" >&2
        exit 1
    fi
    [ ! -e bad.y4m ]
}
bad "from text alone" --model tiny "${image[@]}"
bad "from text alone" --model tiny-t2v-a14b "${image[@]}"
bad "--image is needed" --model tiny-i2v-a14b
bad "--image is needed" --model tiny-i2v
mv tiny-i2v/models_clip_* elsewhere.pth
bad "image encoder is missing" --model tiny-i2v "${image[@]}"
run elsewhere tiny-i2v "${image[@]}" --clip elsewhere.pth
run here tiny-i2v "${image[@]}" --clip elsewhere.pth --plan full
cmp elsewhere.y4m here.y4m
bad "no such file\|No such file\|cannot open" --model tiny-ti2v --image nowhere.png
bad "expected a number from 0, or LOW,HIGH" --model tiny-ti2v --cfg 3,
bad "more than 7/8 of it" --model tiny-ti2v "${image[@]}" --size 1024x16
rm -r tiny-t2v-a14b/low_noise_model
bad "expert for low noise is missing" --model tiny-t2v-a14b
echo ok
