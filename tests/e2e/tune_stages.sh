#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# t3v tune in stages of growing size, and its samples: killed runs end in the bytes of an unbroken one, in whichever stage; samples
# leave those bytes alone and are the clips that t3v generate makes; errors name the stage.
# usage: tune_stages.sh T3V
set -eu
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "tune_stages: $*" >&2; exit 1; }

"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 --tokenizer tests/golden/wan/tiny/google/umt5-xxl/spiece.model \
    -o "$dir/model" > /dev/null
"$t3v" data synth -q --count 3 --seed 5 --size 64x48 --frames 5 --format y4m -o "$dir/v"
for size in 32x32 64x48; do
    "$t3v" data latents -q --model "$dir/model" --videos "$dir/v" --size $size --frames 5 -o "$dir/$size" > /dev/null
done
plan="t3:blocks=1x3x2/2x1x1"
config() { # FILE TOP STAGE1 STAGE2
    printf '{"model":"%s","plan":"t3:blocks=2x1x1","batch":3,"lr":0.01,"warmup":2,"save_every":3,"train":"lora","rank":4%s,
        "stages":[{"data":"%s","steps":5%s},{"plan":"%s","steps":6,"lr":0.003,"batch":2,"shift":3%s}]}' \
        "$dir/model" "$2" "$dir/32x32" "$3" "$plan" "$4" > "$1"
}
tune() { # CONFIG OUT...
    c=$1 o=$2
    shift 2
    "$t3v" tune -q --precision f32 --threads 2 --config "$c" -o "$o" "$@"
}
key() { tr -d ' \n' < "$1"; }

config "$dir/c.json" '' '' ",\"data\":\"$dir/64x48\""
tune "$dir/c.json" "$dir/whole"
[ "$(grep -c '"stage":1' "$dir/whole/log.jsonl")" = 5 ] || fail "the first stage has other than 5 steps"
[ "$(grep -c '"stage":2' "$dir/whole/log.jsonl")" = 6 ] || fail "the second stage has other than 6 steps"
key "$dir/whole/t3v.json" | grep -q "\"plan\":\"$plan\",\"plan_grid\":\[2,3,4\]" || fail "t3v.json: $(cat "$dir/whole/t3v.json")"

# A picture of the log: a point for each step in two curves, the stages.
/usr/bin/python3 - "$dir/whole/loss.svg" <<'PY' || fail "loss.svg is not what it should be"
import sys
import xml.etree.ElementTree as xml
svg = xml.parse(sys.argv[1]).getroot()
tag = lambda name: svg.iter('{http://www.w3.org/2000/svg}' + name)
curves = [[tuple(map(float, p.split(','))) for p in c.get('points').split()] for c in tag('polyline')]
assert [len(c) for c in curves] == [11, 11, 11], curves
for c in curves:
    assert c == sorted(c) and all(60 < x < 850 and 20 < y < 370 for x, y in c), c
assert len({y for _, y in curves[0]}) > 5, 'the loss does not move'
assert 'stage 2' in ''.join(t.text for t in tag('text'))
PY

# Stopped in the first stage, at its end, in the second; and killed.
for n in 2 5 8; do
    tune "$dir/c.json" "$dir/stop$n" --stop-after $n
    [ $n = 8 ] || key "$dir/stop$n/t3v.json" | grep -q '"plan":"t3:blocks=2x1x1","plan_grid":\[2,2,2\]' || fail "t3v.json after $n steps"
    tune "$dir/c.json" "$dir/stop$n" --resume
    cmp "$dir/whole/state/train.safetensors" "$dir/stop$n/state/train.safetensors" || fail "a run stopped after $n steps differs"
    cmp "$dir/whole/lora.safetensors" "$dir/stop$n/lora.safetensors" || fail "the LoRA of a run stopped after $n steps differs"
done
"$t3v" tune -q --precision f32 --threads 2 --config "$dir/c.json" -o "$dir/killed" &
pid=$!
while kill -0 $pid 2> /dev/null && ! grep -q '"step":7,' "$dir/killed/log.jsonl" 2> /dev/null; do sleep 0.02; done
kill -9 $pid 2> /dev/null || true
wait $pid 2> /dev/null || true
tune "$dir/c.json" "$dir/killed" --resume
cmp "$dir/whole/state/train.safetensors" "$dir/killed/state/train.safetensors" || fail "a killed run differs"

# --data is for the stages without data of their own.
config "$dir/c2.json" '' '' ''
tune "$dir/c2.json" "$dir/option" --data "$dir/64x48"
cmp "$dir/whole/lora.safetensors" "$dir/option/lora.safetensors" || fail "--data differs from data in the file"

# Attention of a teacher: the log tells it, its weight brings it nearer on the same samples, and a stopped run is the same.
for weight in 1e-9 100; do
    config "$dir/t0.json" ",\"teach_layers\":$weight,\"ema\":0" '' ",\"data\":\"$dir/64x48\",\"recompute\":true"
    sed 's/"steps":6/"steps":30/' "$dir/t0.json" > "$dir/t.json"
    rm -rf "$dir/taught"
    tune "$dir/t.json" "$dir/taught"
    cp "$dir/taught/log.jsonl" "$dir/taught-$weight.jsonl"
done
/usr/bin/python3 - "$dir/taught-1e-9.jsonl" "$dir/taught-100.jsonl" <<'PY' || fail "attention does not come nearer to the teacher's"
import json, sys
free, drawn = ([json.loads(line)['attention'] for line in open(f)][25:] for f in sys.argv[1:])
assert len(free) == 10 and sum(drawn) < 0.95 * sum(free), (free, drawn)
PY
! grep -q '"attention"' "$dir/whole/log.jsonl" || fail "a run without a teacher tells of one"
tune "$dir/t.json" "$dir/taught2" --stop-after 9
tune "$dir/t.json" "$dir/taught2" --resume
cmp "$dir/taught/state/train.safetensors" "$dir/taught2/state/train.safetensors" || fail "a stopped run with a teacher differs"

# Samples: the same bytes of the run, also when it is killed; the last clip is what generate makes of the weights.
samples=',"samples":{"prompts":["a red cube","a blue ball moves left"],"every":4,"steps":3,"cfg":2,"seed":9}'
config "$dir/s.json" "$samples" '' ",\"data\":\"$dir/64x48\""
tune "$dir/s.json" "$dir/seen" --stop-after 6
tune "$dir/s.json" "$dir/seen" --resume
cmp "$dir/whole/state/train.safetensors" "$dir/seen/state/train.safetensors" || fail "a run with samples differs"
cmp "$dir/whole/lora.safetensors" "$dir/seen/lora.safetensors" || fail "the LoRA of a run with samples differs"
ext=mp4
[ -e "$dir/seen/samples/step_000004_0.mp4" ] || ext=png
want=""
for n in 04 05 08 11; do want="$want step_0000${n}_0.$ext step_0000${n}_1.$ext"; done
# shellcheck disable=SC2046
[ "$(echo $(ls "$dir/seen/samples"))" = "${want# }" ] || fail "samples: $(ls "$dir/seen/samples")"
if [ $ext = mp4 ]; then
    generate() { # PROMPT OUT EXTRA...
        p=$1 o=$2
        shift 2
        "$t3v" generate -q --precision f32 --model "$dir/model" --plan "$plan" --size 64x48 --frames 5 --steps 3 --cfg 2 --seed 9 \
            --prompt "$p" -o "$o" "$@" > /dev/null
    }
    close() { "$t3v" eval video -q --ref "$1" --test "$2" --json | tr -d ' \n' | grep -qE '"psnr_rgb":(null|[6-9][0-9])'; }
    generate "a blue ball moves left" "$dir/fly.mp4" --lora "$dir/seen/lora.safetensors"
    generate "a blue ball moves left" "$dir/untuned.mp4"
    close "$dir/fly.mp4" "$dir/seen/samples/step_000011_1.mp4" || fail "a sample is not what generate makes"
    ! close "$dir/untuned.mp4" "$dir/seen/samples/step_000011_1.mp4" || fail "a sample shows untuned weights"
else
    echo "tune_stages: no videos here, samples are strips" >&2
fi
config "$dir/p.json" ',"samples":{"prompts":["a red cube"],"every":100,"steps":2,"cfg":1,"size":[32,48],"frames":9}' '' \
    ",\"data\":\"$dir/64x48\""
mkdir "$dir/alone" # without the module beside it, the program writes no videos
cp "$t3v" "$dir/alone/t3v"
with=$t3v
t3v="$dir/alone/t3v"
tune "$dir/p.json" "$dir/strip"
t3v=$with
/usr/bin/python3 - "$dir/strip/samples/step_000011_0.png" <<'PY' || fail "a strip is not 8 frames of 32x48"
import struct, sys
assert struct.unpack('>II', open(sys.argv[1], 'rb').read()[16:24]) == (256, 48)
PY
cmp "$dir/whole/lora.safetensors" "$dir/strip/lora.safetensors" || fail "the LoRA of a run with strips differs"

refused() { # STATUS WORDS TOP STAGE1 STAGE2 [OPTIONS...]
    want=$1 words=$2 got=0
    config "$dir/bad.json" "$3" "$4" "$5"
    shift 5
    tune "$dir/bad.json" "$dir/bad" "$@" 2> "$dir/err" || got=$?
    [ $got = "$want" ] || fail "exit $got, expected $want: $words: $(cat "$dir/err")"
    grep -q -- "$words" "$dir/err" || fail "no '$words' in: $(cat "$dir/err")"
    [ ! -e "$dir/bad" ] || fail "$words: something was written"
}
data=",\"data\":\"$dir/64x48\""
refused 2 'stage 2: no data: give --data' '' '' ''
refused 1 'stage 2: .*nowhere' '' '' ',"data":"nowhere"'
refused 1 'bad.json: stage 2: unknown key "lrr"; the nearest known one is "lr"' '' '' "$data,\"lrr\":1"
refused 1 'bad.json: stage 1: "warmup"' '' ',"warmup":-1' "$data"
refused 2 'a teacher needs' ",\"teacher\":\"$dir/model\"" '' "$data"
refused 1 '"steps" belongs to each' ',"steps":3' '' "$data"
refused 2 'stage 2: .*column 13: 3 blocks along height' '' '' ",\"data\":\"$dir/32x32\""
refused 2 'stage 1: .*column' '' ',"plan":"t3:blocks=1x"' "$data"
refused 2 'the configuration names the data of every stage' '' '' "$data" --data "$dir/64x48"
refused 1 'samples: key "prompts"' ',"samples":{}' '' "$data"
refused 1 'samples: unknown key "evry"' ',"samples":{"prompts":["a"],"evry":3}' '' "$data"
refused 1 'samples: "size" is \[width, height\]' ',"samples":{"prompts":["a"],"size":[30,32]}' '' "$data"
refused 2 'stage 1: samples of 64x48x1: .*column' ',"samples":{"prompts":["a"],"frames":1,"size":[64,48]}' '' "$data"
refused 1 'samples: prompt 2 is not a string' ',"samples":{"prompts":["a",3]}' '' "$data"
echo "tune_stages: ok"
