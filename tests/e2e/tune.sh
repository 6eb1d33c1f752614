#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# t3v tune: each kind of training changes what it should and nothing else; a killed run ends in the bytes of an unbroken one;
# a merged LoRA equals the one on the fly; the plan is written down; bad settings are refused and write nothing.
# usage: tune.sh T3V
set -eu
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "tune: $*" >&2; exit 1; }
same() { "$(dirname "$t3v")/tests/compare_tensors" "$1" "$3" "$2" "$3" "$4"; }

"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 --tokenizer tests/golden/wan/tiny/google/umt5-xxl/spiece.model \
    -o "$dir/model" > /dev/null
"$t3v" data synth -q --count 3 --seed 5 --size 64x48 --frames 5 --format y4m -o "$dir/v"
"$t3v" data latents -q --model "$dir/model" --videos "$dir/v" --size 64x48 --frames 5 -o "$dir/data" > /dev/null
plan="t3:blocks=1x3x2/2x1x1"
config() { # FILE STEPS EXTRA
    printf '{"model":"%s","plan":"%s","steps":%s,"batch":3,"lr":0.01,"warmup":2,"save_every":2%s}' "$dir/model" "$plan" "$2" "$3" > "$1"
}
tune() { # CONFIG OUT...
    c=$1 o=$2
    shift 2
    "$t3v" tune -q --precision f32 --threads 2 --config "$c" --data "$dir/data" -o "$o" "$@"
}

# A killed run, with everything on.
lora=',"train":"lora","rank":4,"alpha":8,"weighting":"diffsynth","teach":0.5,"ema":0.9'
config "$dir/c.json" 40 "$lora"
tune "$dir/c.json" "$dir/whole"
"$t3v" tune -q --precision f32 --threads 2 --config "$dir/c.json" --data "$dir/data" -o "$dir/killed" &
pid=$!
while kill -0 $pid 2> /dev/null && ! grep -q '"step":7,' "$dir/killed/log.jsonl" 2> /dev/null; do sleep 0.02; done
kill -9 $pid 2> /dev/null || true
wait $pid 2> /dev/null || true
tune "$dir/c.json" "$dir/killed" --resume --merge
cmp "$dir/whole/state/train.safetensors" "$dir/killed/state/train.safetensors" || fail "a killed run differs"
cmp "$dir/whole/lora.safetensors" "$dir/killed/lora.safetensors" || fail "the LoRA of a killed run differs"
[ ! -e "$dir/whole/diffusion_pytorch_model.safetensors" ] || fail "a LoRA run wrote the weights without --merge"
grep -q "\"plan\": \"$plan\"" "$dir/whole/t3v.json" || fail "t3v.json does not name the plan"
tr -d ' \n' < "$dir/whole/t3v.json" | grep -q '"plan_grid":\[2,3,4\]' || fail "t3v.json does not name the grid"

# A full disk: the checkpoint before stays, and the run goes on from it.
config "$dir/c.json" 6 ',"train":"self"'
tune "$dir/c.json" "$dir/roomy"
tune "$dir/c.json" "$dir/narrow" --stop-after 3
cp -r "$dir/narrow" "$dir/narrow.before"
if (trap '' XFSZ && ulimit -f 8 && tune "$dir/c.json" "$dir/narrow" --resume 2> "$dir/err"); then fail "a full disk was not noticed"; fi
grep -q "narrow/state/train.safetensors" "$dir/err" || fail "a full disk: $(cat "$dir/err")"
for f in state/train.safetensors diffusion_pytorch_model.safetensors t3v.json; do
    cmp "$dir/narrow.before/$f" "$dir/narrow/$f" || fail "a full disk changed $f"
done
[ "$(find "$dir/narrow" -type f | wc -l)" = "$(find "$dir/narrow.before" -type f | wc -l)" ] || fail "a full disk left files behind"
tune "$dir/c.json" "$dir/narrow" --resume
cmp "$dir/roomy/state/train.safetensors" "$dir/narrow/state/train.safetensors" || fail "a run that met a full disk differs"

# On the fly and merged: the same velocity; and another one than before.
"$t3v" encode -q --model "$dir/model" -i "$dir/v/clip_000000.y4m" -o "$dir/latent.safetensors"
"$t3v" text -q --model "$dir/model" --prompt "a red cube" -o "$dir/context.safetensors"
velocity() { # MODEL OUT EXTRA...
    m=$1 o=$2
    shift 2
    "$t3v" dit -q --precision f32 --model "$m" --plan "$plan" --latent "$dir/latent.safetensors" --context "$dir/context.safetensors" \
        --timestep 500 -o "$o" "$@"
}
velocity "$dir/model" "$dir/before.safetensors"
velocity "$dir/model" "$dir/fly.safetensors" --lora "$dir/whole/lora.safetensors"
velocity "$dir/killed" "$dir/merged.safetensors"
same "$dir/fly.safetensors" "$dir/merged.safetensors" velocity 1e-5 || fail "a merged LoRA differs from the one on the fly"
! same "$dir/fly.safetensors" "$dir/before.safetensors" velocity 1e-3 > /dev/null 2>&1 || fail "the LoRA changes nothing"

# What is not trained stays: names of the tensors that changed.
changed() {
    /usr/bin/python3 - "$1" "$2" <<'PY'
import json, struct, sys
def read(path):
    b = open(path, 'rb').read()
    n = struct.unpack('<Q', b[:8])[0]
    h = json.loads(b[8:8 + n])
    return {k: b[8 + n + v['data_offsets'][0]:8 + n + v['data_offsets'][1]] for k, v in h.items() if k != '__metadata__'}
a, b = read(sys.argv[1]), read(sys.argv[2])
print(' '.join(sorted({k.split('.')[2] if k.startswith('blocks') else 'ends' for k in b if a.get(k) != b[k]})))
PY
}
config "$dir/c.json" 2 ',"train":"self"'
tune "$dir/c.json" "$dir/self"
config "$dir/c.json" 2 ''
tune "$dir/c.json" "$dir/full"
"$t3v" init -q --config tiny --parts dit --seed 3 --dtype bf16 -o "$dir/bf16" > /dev/null
[ "$(changed "$dir/bf16/diffusion_pytorch_model.safetensors" "$dir/self/diffusion_pytorch_model.safetensors")" = self_attn ] ||
    fail "train self changed other tensors"
case "$(changed "$dir/bf16/diffusion_pytorch_model.safetensors" "$dir/full/diffusion_pytorch_model.safetensors")" in
    *cross_attn*ends*ffn*self_attn*) ;;
    *) fail "train full left tensors as they were" ;;
esac

# The first frame given, of a model that takes it so: another result, the same one after a stop.
"$t3v" init -q --config tiny-ti2v --seed 3 -o "$dir/ti2v" > /dev/null
"$t3v" data latents -q --model "$dir/ti2v" --videos "$dir/v" --size 64x64 --frames 5 -o "$dir/data48" > /dev/null
ti2v() { # OUT SHARE EXTRA...
    o=$1
    printf '{"model":"%s","plan":"t3","train":"lora","rank":2,"steps":4,"batch":2,"lr":0.01,"first_frame":%s}' "$dir/ti2v" "$2" > "$dir/c48.json"
    shift 2
    "$t3v" tune -q --precision f32 --threads 1 --config "$dir/c48.json" --data "$dir/data48" -o "$o" "$@"
}
ti2v "$dir/first" 0.5
ti2v "$dir/none" 0
! cmp -s "$dir/first/lora.safetensors" "$dir/none/lora.safetensors" || fail "first_frame changes nothing"
ti2v "$dir/stopped" 0.5 --stop-after 2
ti2v "$dir/stopped" 0.5 --resume
cmp "$dir/first/lora.safetensors" "$dir/stopped/lora.safetensors" || fail "a stopped run with first frames differs"

refused() { # STATUS WORDS EXTRA [OPTIONS...]
    want=$1 words=$2 got=0
    config "$dir/bad.json" 2 "$3"
    shift 3
    tune "$dir/bad.json" "$dir/bad" "$@" 2> "$dir/err" || got=$?
    [ $got = "$want" ] || fail "exit $got, expected $want: $words"
    grep -q -- "$words" "$dir/err" || fail "no '$words' in: $(cat "$dir/err")"
    [ ! -e "$dir/bad" ] || fail "$words: something was written"
}
refused 2 'train is "lorra", expected one of "full", "self", "own", "lora"' ',"train":"lorra"'
refused 2 'does not go on from a first frame' ',"first_frame":0.5'
refused 1 'first_frame' ',"first_frame":1.5'
refused 2 'no parameters of its own' ',"train":"own"'
refused 2 'target "wq"' ',"train":"lora","targets":"q,wq"'
refused 1 'rank' ',"train":"lora","rank":0'
refused 1 'lr' ',"lr":0'
refused 1 'unknown key "trian"; the nearest known one is "train"' ',"trian":"self"'
refused 2 'teach' ",\"teacher\":\"$dir/model\""
refused 2 'goes with' '' --merge
config "$dir/c.json" 41 "$lora"
if tune "$dir/c.json" "$dir/whole" --resume 2> "$dir/err"; then fail "a resume with other settings was accepted"; fi
grep -q 'other settings ("steps" differs)' "$dir/err" || fail "other settings were not named"
"$t3v" data synth -q --count 2 --seed 5 --size 64x48 --frames 5 --format y4m -o "$dir/v2"
"$t3v" data latents -q --model "$dir/model" --videos "$dir/v2" --size 64x48 --frames 5 -o "$dir/data2" > /dev/null
config "$dir/c.json" 40 "$lora"
if "$t3v" tune -q --precision f32 --threads 2 --config "$dir/c.json" --data "$dir/data2" -o "$dir/whole" --resume 2> "$dir/err"; then
    fail "a resume with other data was accepted"
fi
grep -q 'from other data (3 clips of 64x48x5, .*); this is 2 clips of 64x48x5, ' "$dir/err" || fail "other data: $(cat "$dir/err")"
"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 4 --tokenizer tests/golden/wan/tiny/google/umt5-xxl/spiece.model \
    --force -o "$dir/model" > /dev/null
refused 2 'another VAE or text encoder' ''
