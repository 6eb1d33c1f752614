#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The retrofit's table (docs/retrofit.md): models/starter-128 at 256x256x17 under full attention and under T3, as it is and
# tuned, with its rivals and variants; then from 256 to 512x512x17. What is done stays done: a run that was stopped by
# --minutes or Ctrl-C goes on where it was, so the table is made in segments.
#
#   bench/retrofit.sh DIR [--minutes N] [RUN...]      makes runs (default: all, in order) in DIR
#   bench/retrofit.sh --list                          names them
#
# A finished run adds its line to RESULTS and its losses to LOGS. Weights and clips stay in DIR; a run that starts from
# another's weights finds them there, or makes that run first.
# environment: T3V (build/t3v), RESULTS (docs/retrofit/results.jsonl), LOGS (docs/retrofit/logs), and to try the script
# STEPS (250), CLIPS (1000), CLIPS_512 (400), COUNT (24), SAMPLING (20), SIZES ("256 512")
set -euo pipefail
cd "$(dirname "$0")/.."
t3v=$(realpath "${T3V:-build/t3v}")
results=${RESULTS:-docs/retrofit/results.jsonl} logs=${LOGS:-docs/retrofit/logs}
steps=${STEPS:-250} clips=${CLIPS:-1000} clips_512=${CLIPS_512:-400} count=${COUNT:-24} sampling=${SAMPLING:-20}
read -r small large <<< "${SIZES:-256 512}"

# Self-attention under these is 7.4, 7.9, 2.9 and 11.6 times less than full attention's at 5x16x16 tokens.
t3=t3:blocks=5x1x1/1x4x4/1x2x8/1x8x2/5x2x2
swin=swin:window=5x6x7
big=t3:blocks=5x1x1/1x2x2/1x2x4/1x4x2/1x2x2
little=t3:blocks=5x2x2/1x8x4/1x4x8/1x5x5/1x4x4
# Of the same windows in pixels at 512: 5x32x32 tokens.
t3_512=t3:blocks=5x2x2/1x8x8/1x4x16/1x16x4/5x4x4
short=$((steps / 5)) rest=$((steps - steps / 5)) steps_512=$((steps * 2 / 5))
full_tune='"lr":1e-3,"lr_end":2e-5,"muon":true,"warmup":20'
lora='"train":"lora","rank":32,"lr":1e-3,"lr_end":2e-5,"warmup":20'
further='"lr":3e-4,"lr_end":2e-5,"muon":true,"warmup":10'

# name | starts from (a run, or - for starter-128) | size | plan | steps (0: as it is) | settings
table() {
    cat << END
full-as-is|-|$small|full|0|
t3-as-is|-|$small|$t3|0|
t3-1|-|$small|$t3|$steps|$full_tune,"seed":1
full-1|-|$small|full|$steps|$full_tune,"seed":1
swin-1|-|$small|$swin|$steps|$full_tune,"seed":1
t3-2|-|$small|$t3|$steps|$full_tune,"seed":2
full-2|-|$small|full|$steps|$full_tune,"seed":2
swin-2|-|$small|$swin|$steps|$full_tune,"seed":2
t3-3|-|$small|$t3|$steps|$full_tune,"seed":3
full-3|-|$small|full|$steps|$full_tune,"seed":3
swin-3|-|$small|$swin|$steps|$full_tune,"seed":3
close-only|-|$small|$t3,branch=close|$steps|$full_tune,"seed":1
remote-only|-|$small|$t3,branch=remote|$steps|$full_tune,"seed":1
large-blocks|-|$small|$big|$steps|$full_tune,"seed":1
small-blocks|-|$small|$little|$steps|$full_tune,"seed":1
back-to-full|t3-1|$small|full|$short|$further,"seed":4
lora-straight|-|$small|$t3|$steps|$lora,"seed":1
short-full-tune|-|$small|$t3|$short|$full_tune,"seed":1
lora-after-short|short-full-tune|$small|$t3|$rest|$lora,"seed":2
distilled|-|$small|$t3|$steps|$full_tune,"seed":1,"teach":0.5,"teach_layers":0.1
full-512-as-is|full-1|$large|full|0|
t3-512-as-is|t3-1|$large|$t3_512|0|
full-512|full-1|$large|full|$steps_512|$further,"seed":5
t3-512|t3-1|$large|$t3_512|$steps_512|$further,"seed":5
END
}
row() { table | grep "^$1|" || { echo "retrofit: no run named '$1'; --list names them" >&2; return 2; }; }
number() { sed -n "s/.*\"$1\": *\([0-9.e+-]*\).*/\1/p" "$2"; }

if [ "${1:-}" = --list ]; then
    table | cut -d'|' -f1
    exit 0
fi
[ $# -ge 1 ] || { sed -n '3,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=$1
shift
end=
if [ "${1:-}" = --minutes ]; then
    end=$(($(date +%s) + $2 * 60))
    shift 2
fi
mkdir -p "$dir" "$logs" "$(dirname "$results")"
dir=$(realpath "$dir")

# Runs a command for as long as time is left; when it is cut, the segment ends here.
within() {
    local rc=0
    if [ -z "$end" ]; then
        "$@" || rc=$?
    else
        local left=$((end - $(date +%s)))
        [ $left -gt 0 ] || { echo "retrofit: the time is over" >&2; exit 0; }
        timeout --signal=INT --kill-after=60 "$left" "$@" || rc=$?
    fi
    case $rc in
        0) ;;
        124 | 130) echo "retrofit: stopped; the same command goes on" >&2; exit 0 ;;
        *) return $rc ;;
    esac
}

data() { # SIZE: latents of scenes that the held-out captions are not among
    local n=$clips out=$dir/data-$1
    [ "$1" = "$small" ] || n=$clips_512
    [ -e "$out/index.json" ] && return
    [ -e "$dir/videos-$1/captions.json" ] ||
        within "$t3v" data synth --quiet --count "$n" --seed 21 --size "$1x$1" --frames 17 --format y4m -o "$dir/videos-$1"
    within "$t3v" data latents --model models/starter-128 --videos "$dir/videos-$1" --size "$1x$1" --frames 17 --vae-tile off -o "$out"
    rm -r "$dir/videos-$1"
}

# DIR/NAME/model: the tuned DiT beside the starter's other parts. A LoRA is merged into it.
model_of() { # RUN
    if [ "$1" = - ]; then echo models/starter-128
    else echo "$dir/$1/model"
    fi
}
tuned() { # RUN
    [ "$1" = - ] || [ -e "$dir/$1/model/t3v.json" ]
}

tune() { # NAME FROM SIZE PLAN STEPS SETTINGS
    local out=$dir/$1/run model=$dir/$1/model options=()
    mkdir -p "$dir/$1"
    printf '{"model":"%s","plan":"%s","steps":%s,"batch":8,"shift":3,"ema":0.98,"save_every":25,%s}\n' \
        "$(model_of "$2")" "$4" "$5" "$6" > "$dir/$1/tune.json"
    [[ $6 != *'"lora"'* ]] || options+=(--merge)
    [ ! -e "$out/state/train.safetensors" ] || options+=(--resume)
    within "$t3v" tune --config "$dir/$1/tune.json" --data "$dir/data-$3" -o "$out" "${options[@]}"
    mkdir -p "$model"
    for part in Wan2.1_VAE.pth google models_t5_umt5-xxl-enc-bf16.pth; do ln -sfn "$(realpath models/starter/$part)" "$model/$part"; done
    cp "$out/diffusion_pytorch_model.safetensors" "$out/config.json" "$out/t3v.json" "$model/"
    sed -n 's/.*"step":\([0-9]*\).*"loss":\([0-9.e+-]*\).*"seconds":\([0-9.e+-]*\).*/{"step":\1,"loss":\2,"seconds":\3}/p' \
        "$out/log.jsonl" > "$logs/$1.jsonl"
}

# Scores beside full attention of the same size, the first variant, which every comparison of a size shares.
score() { # NAME FROM SIZE PLAN STEPS
    local model from=$2 size=$3 out=$dir/compare-$3 first
    [ "$5" = 0 ] || from=$1
    model=$(model_of "$from")
    first="name=full-as-is,plan=full,model=models/starter-128"
    [ "$size" = "$small" ] || first="name=full-512-as-is,plan=full,model=$(model_of full-1)"
    local variants=(--variant "$first")
    [[ $first = name=$1,* ]] || variants+=(--variant "name=$1,plan=$4,model=$model")
    # A page needs two variants: the first alone is scored beside itself at another name.
    [ ${#variants[@]} = 4 ] || variants+=(--variant "name=$1-again,${first#*,}")
    within "$t3v" compare "${variants[@]}" --count "$count" --seed 1 --size "${size}x$size" --frames 17 --steps "$sampling" \
        --cfg 4 --shift 3 -o "$out" --quiet > /dev/null
    cp "$out/compare.json" "$dir/$1.compare.json"
}

record() { # NAME FROM SIZE PLAN STEPS
    local at=2 flop=0 seconds=0 loss=0
    case $1 in full-as-is | full-512-as-is) at=1 ;; esac
    value() { sed -n "s/^   \"$1\": \([^,]*\),*$/\1/p" "$dir/$2.compare.json" | sed -n "${at}p"; }
    if [ "$5" != 0 ]; then
        "$t3v" tune --config "$dir/$1/tune.json" --data "$dir/data-$3" --dry-run --json --quiet > "$dir/$1/cost.json"
        flop=$(number flop_a_step "$dir/$1/cost.json")
        seconds=$(number seconds "$logs/$1.jsonl" | sort -g | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }')
        loss=$(tail -n 50 "$logs/$1.jsonl" | number loss /dev/stdin | awk '{ s += $1 } END { printf "%.4f", s / NR }')
    fi
    printf '{"run":"%s","from":"%s","size":%s,"plan":"%s","steps":%s,"flop_a_step":%s,"seconds_a_step":%s,"loss":%s,"attention_share":%s,"sampling_macs":%s,"vtc_s":%s,"vtc_s_sd":%s,"vqa_s":%s,"vqa_s_sd":%s,"frechet":%s,"frechet_renders":%s,"count":%s,"cpu":"%s","isa":"%s"}\n' \
        "$1" "$2" "$3" "$4" "$5" "$flop" "$seconds" "$loss" "$(value attention_share "$1")" "$(value macs "$1")" "$(value vtc_s "$1")" \
        "$(value vtc_s_sd "$1")" "$(value vqa_s "$1")" "$(value vqa_s_sd "$1")" "$(value frechet "$1")" "$(value frechet_renders "$1")" "$count" \
        "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(isa)" >> "$results"
    tail -n 1 "$results"
}
isa() {
    local flags
    flags=$(grep -m 1 '^flags' /proc/cpuinfo)
    for f in avx512_bf16 avx512f avx2; do case " $flags " in *" $f "*) echo $f; return ;; esac; done
}

make_run() { # NAME
    local name from size plan n settings
    IFS='|' read -r name from size plan n settings < <(row "$1")
    if ! tuned "$from"; then make_run "$from"; fi
    data "$size"
    if [ "$n" != 0 ] && ! tuned "$name"; then
        echo "== $name: $n steps under $plan" >&2
        tune "$name" "$from" "$size" "$plan" "$n" "$settings"
    fi
    grep -q "^{\"run\":\"$name\"," "$results" 2> /dev/null && return
    if [ "$size" = "$large" ] && ! tuned full-1; then make_run full-1; fi
    echo "== $name: $count clips" >&2
    score "$name" "$from" "$size" "$plan" "$n"
    record "$name" "$from" "$size" "$plan" "$n"
}

[ $# -gt 0 ] || mapfile -t all < <(table | cut -d'|' -f1)
for run in "${@:-${all[@]}}"; do
    row "$run" > /dev/null
    make_run "$run"
done
