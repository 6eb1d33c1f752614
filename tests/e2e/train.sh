#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# t3v train: on two threads a run that was stopped, and one that was killed, end in the bytes of an unbroken one; bad
# configurations are refused and write nothing.
# usage: train.sh T3V
set -eu
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "train: $*" >&2; exit 1; }

"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 --tokenizer tests/golden/wan/tiny/google/umt5-xxl/spiece.model \
    -o "$dir/model" > /dev/null
config() { # FILE STEPS EXTRA
    printf '{"task":"dit","init":"%s","size":32,"frames":5,"clips":3,"steps":%s,"batch":5,"lr":0.003,"warmup":2,"save_every":2%s}' \
        "$dir/model" "$2" "$3" > "$1"
}
for muon in false true; do
    config "$dir/c.json" 8 ",\"muon\":$muon"
    rm -rf "$dir/whole" "$dir/stopped"
    "$t3v" train -q --threads 2 --config "$dir/c.json" -o "$dir/whole"
    "$t3v" train -q --threads 2 --config "$dir/c.json" -o "$dir/stopped" --stop-after 3
    "$t3v" train -q --threads 2 --config "$dir/c.json" -o "$dir/stopped" --resume
    cmp "$dir/whole/state/train.safetensors" "$dir/stopped/state/train.safetensors" || fail "a stopped run (muon $muon) differs"
    cmp "$dir/whole/diffusion_pytorch_model.safetensors" "$dir/stopped/diffusion_pytorch_model.safetensors" ||
        fail "weights of a stopped run (muon $muon) differ"
done

config "$dir/c.json" 60 ""
"$t3v" train -q --threads 2 --config "$dir/c.json" -o "$dir/long"
"$t3v" train -q --threads 2 --config "$dir/c.json" -o "$dir/killed" &
pid=$!
while kill -0 $pid 2> /dev/null && ! grep -q '"step":9,' "$dir/killed/log.jsonl" 2> /dev/null; do sleep 0.02; done
kill -9 $pid 2> /dev/null || true
wait $pid 2> /dev/null || true
"$t3v" train -q --threads 2 --config "$dir/c.json" -o "$dir/killed" --resume
cmp "$dir/long/state/train.safetensors" "$dir/killed/state/train.safetensors" || fail "a killed run differs"

cache() { # CLIPS FILE
    printf '{"task":"dit","init":"%s","cache":"%s","size":32,"frames":5,"clips":%s,"steps":1,"batch":2}' "$dir/model" "$2" "$1" \
        > "$dir/c.json"
    "$t3v" train -q --config "$dir/c.json" -o "$dir/cached"
}
cache 5 "$dir/whole.safetensors"
cache 2 "$dir/grown.safetensors"
cache 5 "$dir/grown.safetensors"
cmp "$dir/whole.safetensors" "$dir/grown.safetensors" || fail "a cache that grew differs from one made at once"

config "$dir/c.json" 3 ',"freeze_text":true'
"$t3v" train -q --config "$dir/c.json" -o "$dir/frozen"
"$t3v" text --model "$dir/model" --prompt "a red cube" -o "$dir/a.safetensors"
cp -r "$dir/model/google" "$dir/frozen/"
"$t3v" text --model "$dir/frozen" --prompt "a red cube" -o "$dir/b.safetensors"
cmp "$dir/a.safetensors" "$dir/b.safetensors" || fail "freeze_text: the text encoder changed"
! cmp -s "$dir/model/diffusion_pytorch_model.safetensors" "$dir/frozen/diffusion_pytorch_model.safetensors" ||
    fail "freeze_text: the DiT did not change"

refused() { # WORDS EXTRA
    config "$dir/bad.json" 8 "$2"
    if "$t3v" train -q --config "$dir/bad.json" -o "$dir/bad" 2> "$dir/err"; then fail "$2 was accepted"; fi
    grep -q -- "$1" "$dir/err" || fail "$2: $(cat "$dir/err")"
    [ ! -e "$dir/bad/state" ] || fail "$2: something was written"
}
refused muon ',"muon":3'
refused momentum ',"momentum":1.5'
refused lr_end ',"lr_end":-1'
refused 'unknown key "warmpu"; the nearest known one is "warmup"' ',"warmpu":3'
refused 'unknown key "crop"' ',"crop":64' # one of the other task
for recipe in models/*/recipe/*.json; do # the first unknown key is named: every other is known
    sed 's/}[ \n]*$/,"zzz":1}/' "$recipe" > "$dir/recipe.json"
    if "$t3v" train -q --config "$dir/recipe.json" -o "$dir/bad" 2> "$dir/err"; then fail "$recipe: zzz was accepted"; fi
    grep -q 'unknown key "zzz"' "$dir/err" || fail "$recipe: $(cat "$dir/err")"
done
echo "train: ok"
