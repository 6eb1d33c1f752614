#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The retrofit's table (docs/retrofit.md): models/starter-128 at 256x256x17 under full attention and under T3, as it is and
# tuned, with its rivals and variants; then from 256 to 512x512x17, and T3 alone on to 960x544, 1920x1088 and 4K. What is done
# stays done: a run that was stopped by --minutes or Ctrl-C goes on where it was, so the table is made in segments.
#
#   bench/retrofit.sh DIR [--minutes N] [RUN...]      makes runs (default: all, in order) in DIR
#   bench/retrofit.sh --list                          names them
#   bench/retrofit.sh --table                         what RESULTS has so far, as Markdown; runs of several seeds in one row
#
# A finished run adds its line to RESULTS and its losses to LOGS. Weights and clips stay in DIR; a run that starts from
# another's weights finds them there, or makes that run first.
# environment: T3V (build/t3v), RESULTS (docs/retrofit/results.jsonl), LOGS (docs/retrofit/logs), and to try the script
# STEPS (250), SAMPLING (20), and a number for each of the five sizes: SIZES, CLIPS to tune on, COUNT of clips to score
set -euo pipefail
cd "$(dirname "$0")/.."
t3v=$(realpath "${T3V:-build/t3v}")
results=${RESULTS:-docs/retrofit/results.jsonl} logs=${LOGS:-docs/retrofit/logs}
steps=${STEPS:-250} sampling=${SAMPLING:-20}
sizes=${SIZES:-256x256x17 512x512x17 960x544x17 1920x1088x17 3840x2176x5}
read -r s256 s512 s960 s1920 s4k <<< "$sizes"
read -ra clips <<< "${CLIPS:-600 250 80 32 8}"
read -ra count <<< "${COUNT:-24 24 6 3 1}"

# Self-attention under these is 7.4, 7.9, 2.9 and 11.6 times less than full attention's at 5x16x16 tokens.
t3=t3:blocks=5x1x1/1x4x4/1x2x8/1x8x2/5x2x2
swin=swin:window=5x6x7
big=t3:blocks=5x1x1/1x2x2/1x2x4/1x4x2/1x2x2
little=t3:blocks=5x2x2/1x8x4/1x4x8/1x5x5/1x4x4
# Of the same windows in pixels at 512: 5x32x32 tokens.
t3_512=t3:blocks=5x2x2/1x8x8/1x4x16/1x16x4/5x4x4
short=$((steps / 5)) rest=$((steps - steps / 5)) steps_512=$((steps * 2 / 5)) few=$((steps / 10))
full_tune='"lr":1e-3,"lr_end":2e-5,"muon":true,"warmup":20'
lora='"train":"lora","rank":32,"lr":1e-3,"lr_end":2e-5,"warmup":20'
further='"lr":3e-4,"lr_end":2e-5,"muon":true,"warmup":10'
upward='"lr":2e-4,"lr_end":2e-5,"muon":true,"warmup":5,"recompute":true'

# name | starts from (a run, or - for starter-128) | size | plan | steps (0: as it is) | settings
table() {
    cat << END
full-as-is|-|$s256|full|0|
t3-as-is|-|$s256|$t3|0|
t3-1|-|$s256|$t3|$steps|$full_tune,"seed":1
full-1|-|$s256|full|$steps|$full_tune,"seed":1
swin-1|-|$s256|$swin|$steps|$full_tune,"seed":1
t3-2|-|$s256|$t3|$steps|$full_tune,"seed":2
full-2|-|$s256|full|$steps|$full_tune,"seed":2
swin-2|-|$s256|$swin|$steps|$full_tune,"seed":2
t3-3|-|$s256|$t3|$steps|$full_tune,"seed":3
full-3|-|$s256|full|$steps|$full_tune,"seed":3
swin-3|-|$s256|$swin|$steps|$full_tune,"seed":3
close-only|-|$s256|$t3,branch=close|$steps|$full_tune,"seed":1
remote-only|-|$s256|$t3,branch=remote|$steps|$full_tune,"seed":1
large-blocks|-|$s256|$big|$steps|$full_tune,"seed":1
small-blocks|-|$s256|$little|$steps|$full_tune,"seed":1
back-to-full|t3-1|$s256|full|$short|$further,"seed":4
lora-straight|-|$s256|$t3|$steps|$lora,"seed":1
short-full-tune|-|$s256|$t3|$short|$full_tune,"seed":1
lora-after-short|short-full-tune|$s256|$t3|$rest|$lora,"seed":2
distilled|-|$s256|$t3|$steps|$full_tune,"seed":1,"teach":0.5,"teach_layers":0.1
full-512-as-is|full-1|$s512|full|0|
t3-512-as-is|t3-1|$s512|$t3_512|0|
full-512|full-1|$s512|full|$steps_512|$further,"seed":5
t3-512|t3-1|$s512|$t3_512|$steps_512|$further,"seed":5
t3-960-as-is|t3-512|$s960|t3|0|
t3-960|t3-512|$s960|t3|$few|$upward,"seed":6
t3-1920-as-is|t3-960|$s1920|t3|0|
t3-1920|t3-960|$s1920|t3|$few|$upward,"seed":7,"batch":4
t3-4k-as-is|t3-1920|$s4k|t3|0|
t3-4k|t3-1920|$s4k|t3|$few|$upward,"seed":8,"batch":2
END
}
row() { table | grep "^$1|" || { echo "retrofit: no run named '$1'; --list names them" >&2; return 2; }; }
number() { sed -n "s/.*\"$1\": *\([0-9.e+-]*\).*/\1/p" "$2"; }

if [ "${1:-}" = --list ]; then
    table | cut -d'|' -f1
    exit 0
fi
if [ "${1:-}" = --table ]; then
    python3 - "$results" << 'END'
import json, re, statistics as st, sys

rows = {}
for line in open(sys.argv[1]):
    r = json.loads(line)
    rows.setdefault(re.sub(r"-[123]$", "", r["run"]), []).append(r)


def show(group, key, digits, scale=1):
    values = [scale * r[key] for r in group if r[key] is not None]
    if not values: return ""
    mean = f"{st.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {st.stdev(values):.{digits}f}"


print("| run | size | attention | steps | VTC-S | VQA-S | Fréchet to renders | loss | GFLOP a step | seconds a step |")
print("|---|---|---|---|---|---|---|---|---|---|")
for name, g in rows.items():
    tuned = g[0]["steps"] > 0
    cells = [name + (f" ({len(g)} seeds)" if len(g) > 1 else ""), g[0]["size"], show(g, "attention_share", 3), g[0]["steps"],
             show(g, "vtc_s", 3), show(g, "vqa_s", 1), show(g, "frechet_renders", 2)]
    cells += [show(g, "loss", 4), show(g, "flop_a_step", 0, 1e-9), show(g, "seconds_a_step", 1)] if tuned else ["", "", ""]
    print("| " + " | ".join(map(str, cells)) + " |")
END
    exit 0
fi
[ $# -ge 1 ] || { sed -n '3,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
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

# The position of a size among the five.
position() {
    local i=0 size
    for size in $sizes; do
        [ "$size" != "$1" ] || { echo $i; return; }
        i=$((i + 1))
    done
}

data() { # SIZE: latents of scenes that the held-out captions are not among
    local n=${clips[$(position "$1")]} out=$dir/data-$1 videos=$dir/videos-$1 frames=${1##*x} tile=auto
    [ -e "$out/index.json" ] && return
    [ -e "$videos/captions.json" ] ||
        within "$t3v" data synth --quiet --count "$n" --seed 21 --size "${1%x*}" --frames "$frames" --format y4m -o "$videos"
    case $1 in "$s256" | "$s512") tile=off ;; esac
    within "$t3v" data latents --model models/starter-128 --videos "$videos" --size "${1%x*}" --frames "$frames" --vae-tile $tile -o "$out"
    rm -r "$videos"
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
    local batch='"batch":8,'
    [[ $6 != *'"batch"'* ]] || batch=
    printf '{"model":"%s","plan":"%s","steps":%s,%s"shift":3,"ema":0.98,"save_every":25,%s}\n' \
        "$(model_of "$2")" "$4" "$5" "$batch" "$6" > "$dir/$1/tune.json"
    [[ $6 != *'"lora"'* ]] || options+=(--merge)
    [ ! -e "$out/state/train.safetensors" ] || options+=(--resume)
    within "$t3v" tune --config "$dir/$1/tune.json" --data "$dir/data-$3" -o "$out" "${options[@]}"
    mkdir -p "$model"
    for part in Wan2.1_VAE.pth google models_t5_umt5-xxl-enc-bf16.pth; do ln -sfn "$(realpath models/starter/$part)" "$model/$part"; done
    cp "$out/diffusion_pytorch_model.safetensors" "$out/config.json" "$out/t3v.json" "$model/"
    sed -n 's/.*"step":\([0-9]*\).*"loss":\([0-9.e+-]*\).*"seconds":\([0-9.e+-]*\).*/{"step":\1,"loss":\2,"seconds":\3}/p' \
        "$out/log.jsonl" > "$logs/$1.jsonl"
}

# The first run of a size, which every comparison of that size shares.
first_of() { table | awk -F'|' -v size="$1" '$3 == size { print $1; exit }'; }
second_of() { table | awk -F'|' -v size="$1" '$3 == size && n++ { print $1; exit }'; }

score() { # NAME FROM SIZE PLAN STEPS
    local from=$2 out=$dir/compare-$3 shared first
    shared=$(first_of "$3")
    first="name=$shared,plan=$(row "$shared" | cut -d'|' -f4),model=$(model_of "$(row "$shared" | cut -d'|' -f2)")"
    [ "$5" = 0 ] || from=$1
    within "$t3v" compare --variant "$first" --variant "name=$1,plan=$4,model=$(model_of "$from")" --count "${count[$(position "$3")]}" --seed 1 --size "${3%x*}" --frames "${3##*x}" --steps "$sampling" \
        --cfg 4 --shift 3 -o "$out" --quiet > /dev/null
    cp "$out/compare.json" "$dir/$1.compare.json"
}

record() { # NAME FROM SIZE PLAN STEPS
    local at=2 flop=0 seconds=0 loss=0
    [ "$1" != "$(first_of "$3")" ] || at=1
    value() { sed -n "s/^   \"$1\": \([^,]*\),*$/\1/p" "$dir/$2.compare.json" | sed -n "${at}p"; }
    if [ "$5" != 0 ]; then
        "$t3v" tune --config "$dir/$1/tune.json" --data "$dir/data-$3" --dry-run --json --quiet > "$dir/$1/cost.json"
        flop=$(number flop_a_step "$dir/$1/cost.json")
        seconds=$(number seconds "$logs/$1.jsonl" | sort -g | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }')
        loss=$(tail -n 50 "$logs/$1.jsonl" | number loss /dev/stdin | awk '{ s += $1 } END { printf "%.4f", s / NR }')
    fi
    printf '{"run":"%s","from":"%s","size":"%s","plan":"%s","steps":%s,"flop_a_step":%s,"seconds_a_step":%s,"loss":%s,"attention_share":%s,"sampling_macs":%s,"vtc_s":%s,"vtc_s_sd":%s,"vqa_s":%s,"vqa_s_sd":%s,"frechet":%s,"frechet_renders":%s,"count":%s,"cpu":"%s","isa":"%s"}\n' \
        "$1" "$2" "$3" "$4" "$5" "$flop" "$seconds" "$loss" "$(value attention_share "$1")" "$(value macs "$1")" "$(value vtc_s "$1")" \
        "$(value vtc_s_sd "$1")" "$(value vqa_s "$1")" "$(value vqa_s_sd "$1")" "$(value frechet "$1")" "$(value frechet_renders "$1")" "${count[$(position "$3")]}" \
        "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(isa)" >> "$results"
    tail -n 1 "$results"
}
isa() {
    local flags
    flags=$(grep -m 1 '^flags' /proc/cpuinfo)
    for f in avx512_bf16 avx512f avx2; do case " $flags " in *" $f "*) echo $f; return ;; esac; done
}

make_run() { # NAME
    local name from size plan n settings from_first
    IFS='|' read -r name from size plan n settings < <(row "$1")
    if ! tuned "$from"; then make_run "$from"; fi
    data "$size"
    if [ "$n" != 0 ] && ! tuned "$name"; then
        echo "== $name: $n steps under $plan" >&2
        tune "$name" "$from" "$size" "$plan" "$n" "$settings"
    fi
    grep -q "^{\"run\":\"$name\"," "$results" 2> /dev/null && return
    from_first=$(row "$(first_of "$size")" | cut -d'|' -f2)
    if ! tuned "$from_first"; then make_run "$from_first"; fi
    if [ "$name" = "$(first_of "$size")" ]; then # scored beside the second, as beside every other
        local second
        second=$(second_of "$size")
        make_run "$second"
        cp "$dir/$second.compare.json" "$dir/$name.compare.json"
    else
        echo "== $name: ${count[$(position "$size")]} clips" >&2
        score "$name" "$from" "$size" "$plan" "$n"
    fi
    record "$name" "$from" "$size" "$plan" "$n"
}

[ $# -gt 0 ] || mapfile -t all < <(table | cut -d'|' -f1)
for run in "${@:-${all[@]}}"; do
    row "$run" > /dev/null
    make_run "$run"
done
