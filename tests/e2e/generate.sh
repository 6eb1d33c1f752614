#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a prompt to a video on the tiny model: the official latents, the same bytes with any thread count and after a
# kill at any step, lists of prompts, and requests that cannot be met.
set -euo pipefail
t3v=$1
compare=${T3V_BUILD:?}/tests/compare_tensors
golden=tests/golden/wan
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
base=(generate --quiet --model $golden/tiny --size 48x32 --frames 5 --steps 6 --cfg 5 --shift 5)
prompt=(--prompt "A heron lands on a frozen lake." --negative "blurry, low quality, text")

echo "# official trajectories, end to end"
for sampler in unipc dpm++ euler; do
    for precision in f32 bf16; do
        "$t3v" "${base[@]}" "${prompt[@]}" --noise $golden/pipeline.safetensors --sampler $sampler --precision $precision \
            --save-latent "$dir/latent.safetensors" -o "$dir/a.mp4" > /dev/null
        limit=1e-3
        [ $precision = bf16 ] && limit=2e-2
        "$compare" "$dir/latent.safetensors" latent $golden/pipeline.safetensors "latent_$sampler" $limit
    done
done

"$t3v" "${base[@]}" "${prompt[@]}" --noise $golden/pipeline.safetensors --act int8 --json --save-latent "$dir/latent.safetensors" \
    -o "$dir/a.mp4" | grep -q '"act": "int8"'
"$compare" "$dir/latent.safetensors" latent $golden/pipeline.safetensors latent_unipc 5e-2

echo "# the same bytes with 1 and 2 threads"
for how in "--precision f32" "--precision bf16" "--act int8"; do
    for threads in 1 2; do
        "$t3v" "${base[@]}" "${prompt[@]}" --seed 7 $how --threads $threads -o "$dir/t$threads.mp4" > /dev/null
    done
    cmp "$dir/t1.mp4" "$dir/t2.mp4"
done

echo "# killed at some step, resumed: the same bytes"
wait_state() { for _ in $(seq 400); do [ -e "$1.t3v-state" ] && break; sleep 0.01; done; }
"$t3v" "${base[@]}" "${prompt[@]}" --seed 3 -o "$dir/whole.mp4" > /dev/null
for try in 1 2 3; do
    rm -f "$dir"/cut.mp4*
    "$t3v" "${base[@]}" "${prompt[@]}" --seed 3 --save-every 0 -o "$dir/cut.mp4" > /dev/null &
    pid=$!
    wait_state "$dir/cut.mp4"
    sleep 0.0$((try * 3))
    kill -9 $pid 2> /dev/null || true
    wait $pid 2> /dev/null || true
    [ ! -e "$dir/cut.mp4" ] || cmp "$dir/whole.mp4" "$dir/cut.mp4"
    "$t3v" "${base[@]}" "${prompt[@]}" --seed 3 --resume -o "$dir/cut.mp4" > /dev/null
    cmp "$dir/whole.mp4" "$dir/cut.mp4"
    [ ! -e "$dir/cut.mp4.t3v-state" ]
done

echo "# killed while steps reuse what the blocks added before: the same bytes"
steps=(--steps 30 --cfg-steps 3-28 --dense-steps 2 --reuse steps:0-4,15,25 --save-every 0)
"$t3v" "${base[@]}" "${prompt[@]}" "${steps[@]}" --seed 3 --json -o "$dir/whole2.mp4" | grep -q '"passes": 11'
for try in 1 2; do
    rm -f "$dir"/cut.mp4*
    "$t3v" "${base[@]}" "${prompt[@]}" "${steps[@]}" --seed 3 -o "$dir/cut.mp4" > /dev/null &
    pid=$!
    for _ in $(seq 400); do grep -qs '"residual_negative"' "$dir/cut.mp4.t3v-state" && break; sleep 0.01; done
    kill -9 $pid 2> /dev/null || true
    wait $pid 2> /dev/null || true
    "$t3v" "${base[@]}" "${prompt[@]}" "${steps[@]}" --seed 3 --resume -o "$dir/cut.mp4" > /dev/null
    cmp "$dir/whole2.mp4" "$dir/cut.mp4"
done

echo "# attention that keeps a state from step to step, killed between two of its cache steps"
kept=("${base[@]}" "${prompt[@]}" --steps 12 --plan rettention:warm=0,window=1,period=4 --seed 3)
"$t3v" "${kept[@]}" -o "$dir/kept.y4m" > /dev/null
"$t3v" "${base[@]}" "${prompt[@]}" --steps 12 --seed 3 -o "$dir/full.y4m" > /dev/null
! cmp -s "$dir/kept.y4m" "$dir/full.y4m"
"$t3v" "${kept[@]}" --save-every 0 -o "$dir/kept2.y4m" > /dev/null &
pid=$!
for _ in $(seq 1000); do
    step=$(grep -a -o '"step":"[0-9]*"' "$dir/kept2.y4m.t3v-state" 2> /dev/null | tr -dc 0-9 || true)
    [ "${step:-0}" -lt 5 ] || break
    sleep 0.01
done
kill -9 $pid 2> /dev/null || true
wait $pid 2> /dev/null || true
"$t3v" "${kept[@]}" --resume -o "$dir/kept2.y4m" > /dev/null
cmp "$dir/kept.y4m" "$dir/kept2.y4m"

echo "# stopped by Ctrl-C, which keeps the last step whatever the interval; a state of another job is refused"
many=(generate --model $golden/tiny --size 48x32 --frames 5 --cfg 5 --shift 5 --steps 400 --sampler euler "${prompt[@]}" --save-every 1e6)
"$t3v" "${many[@]}" --seed 3 -o "$dir/long.mp4" --quiet > /dev/null
for delay in 0.1 0.3 1 2 4; do # until it is caught after its first step and before its last
    rm -f "$dir"/int.mp4*
    : > "$dir/err"
    (exec "$t3v" "${many[@]}" --seed 3 -o "$dir/int.mp4" > /dev/null 2> "$dir/err") & pid=$!
    for _ in $(seq 1000); do grep -qs denoise "$dir/err" && break; sleep 0.01; done
    sleep $delay
    kill -INT $pid 2> /dev/null || true
    rc=0; wait $pid || rc=$?
    [ ! -e "$dir/int.mp4.t3v-state" ] || break
done
[ $rc = 130 ] && [ ! -e "$dir/int.mp4" ]
for other in "--seed 4" "--seed 3 --act int8"; do
    rc=0; "$t3v" "${many[@]}" $other --resume -o "$dir/int.mp4" 2> "$dir/err" || rc=$?
    [ $rc = 2 ] && grep -q "other settings" "$dir/err"
done
"$t3v" "${many[@]}" --seed 3 --resume -o "$dir/int.mp4" --quiet > /dev/null
cmp "$dir/long.mp4" "$dir/int.mp4"

echo "# a list of prompts; clips that exist are kept"
printf '[{"prompt_en": "a red circle", "data_file": "one.mp4"}, {"prompt_en": "a blue square", "data_file": ""}]' > "$dir/list.json"
"$t3v" "${base[@]}" --prompts "$dir/list.json" --out-dir "$dir/set" > /dev/null
[ -s "$dir/set/one.mp4" ] && [ -s "$dir/set/00001.mp4" ]
stamp=$(stat -c %Y.%i "$dir/set/one.mp4")
rm "$dir/set/00001.mp4"
"$t3v" "${base[@]}" --prompts "$dir/list.json" --out-dir "$dir/set" > /dev/null
[ "$stamp" = "$(stat -c %Y.%i "$dir/set/one.mp4")" ] && [ -s "$dir/set/00001.mp4" ]

echo "# metadata, sizes that are not whole tokens, one pass a step, an empty prompt, a long one"
ffprobe -v error -show_entries format_tags=comment -of csv=p=0 "$dir/whole.mp4" | grep -q "A heron lands on a frozen lake."
"$t3v" "${base[@]}" --size 50x38 --frames 1 --cfg 1 --prompt "" -o "$dir/odd.mp4" > /dev/null
[ "$(ffprobe -v error -select_streams v -show_entries stream=width,height -of csv=p=0 "$dir/odd.mp4")" = 50,38 ]
long=$(printf 'word%.0s ' $(seq 600))
"$t3v" generate --model $golden/tiny --size 32x32 --frames 1 --steps 1 --cfg 1 --prompt "$long" -o "$dir/long.png" > /dev/null 2> "$dir/err"
grep -q 'it is cut before "word' "$dir/err"

echo "# steps from t3v.json, and from options over it"
cp -r $golden/tiny "$dir/model"
echo '{"steps": 8, "cfg": 4, "cfg_steps": "1-2", "dense_steps": 1, "reuse": "steps:0,2"}' > "$dir/model/t3v.json"
passes() { "$t3v" generate --model "$dir/model" --size 48x32 --frames 5 --dry-run --json "$@" | grep -q "\"passes\": $want,"; }
want=4; passes
want=8; passes --reuse off --cfg 1 # its cfg_steps then mean nothing
want=10; passes --reuse off
want=4; passes --cfg-steps all
want=10; passes --reuse teacache:threshold=1e9 --cfg-steps all --dense-steps 0

echo "# dry run: numbers, nothing written"
"$t3v" generate --model $golden/tiny --size 48x32 --frames 5 --dry-run --json > "$dir/dry.json"
grep -q '"peak_bytes": [1-9]' "$dir/dry.json"
if [ -z "${T3V_CPU:-}" ]; then # masked it may have no yardstick
    "$t3v" generate --model $golden/tiny --size 48x32 --frames 5 --dry-run | grep -q '^time     about [0-9.e-]* s (denoise'
    "$t3v" "${base[@]}" --prompts "$dir/list.json" --out-dir "$dir/set" --dry-run | grep -q 'decode .* for each of 2 clips)'
fi

echo "# requests that cannot be met: exit status and words"
bad() { # status, words, arguments...
    local want=$1 words=$2 rc=0
    shift 2
    "$t3v" "$@" > "$dir/out" 2> "$dir/err" || rc=$?
    if [ $rc != "$want" ] || ! grep -q -- "$words" "$dir/err"; then
        echo "t3v $*: exit $rc (wanted $want), said: $(cat "$dir/err")" >&2
        exit 1
    fi
    [ ! -e "$dir/bad.mp4" ] || { echo "t3v $*: something was written" >&2; exit 1; }
}
bad 2 "the nearest is 9" "${base[@]}" --frames 8 --prompt x -o "$dir/bad.mp4"
bad 2 "the nearest is 34" "${base[@]}" --size 33x32 --prompt x -o "$dir/bad.mp4"
bad 2 "the nearest is 16" "${base[@]}" --size 32x2 --prompt x -o "$dir/bad.mp4"
bad 2 "expected a model directory or a DiT file" generate --model "$dir/nowhere" --prompt x -o "$dir/bad.mp4"
bad 1 "needs .* GiB" "${base[@]}" --memory-limit 4M --prompt x -o "$dir/bad.mp4"
bad 1 "cannot write" "${base[@]}" --prompt x -o "$dir/no/such/dir/bad.mp4"
bad 1 "UTF-8.*offset 2\|UTF-8: byte 0xff at offset 2" "${base[@]}" --prompt $'ab\xff' -o "$dir/bad.mp4"
bad 2 "sampler" "${base[@]}" --sampler heun --prompt x -o "$dir/bad.mp4"
bad 2 "cfg-steps 2-6: the run has 6 steps" "${base[@]}" --cfg-steps 2-6 --prompt x -o "$dir/bad.mp4"
bad 2 "cfg-steps 0-2: there is no guidance" "${base[@]}" --cfg 1 --cfg-steps 0-2 --prompt x -o "$dir/bad.mp4"
bad 2 "dense-steps 7: the run has 6 steps" "${base[@]}" --dense-steps 7 --prompt x -o "$dir/bad.mp4"
bad 2 "--dense-steps -1: expected" "${base[@]}" --dense-steps -1 --prompt x -o "$dir/bad.mp4"
bad 2 "reuse steps:1: step 0 must run" "${base[@]}" --reuse steps:1 --prompt x -o "$dir/bad.mp4"
bad 2 "reuse sometimes: expected off" "${base[@]}" --reuse sometimes --prompt x -o "$dir/bad.mp4"
bad 2 "plan" "${base[@]}" --plan nonsense --prompt x -o "$dir/bad.mp4"
echo "ok"
