#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# --device where there is no CUDA module: cuda fails with one line, auto falls back with a notice, cpu says nothing.
set -euo pipefail
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "$*" >&2; exit 1; }
export T3V_CUDA=$dir/none.so

"$t3v" init --config tiny -o "$dir/model" 2>/dev/null >&2
make_clip() { # DEVICE: makes clip.y4m, what it says goes to said
    "$t3v" generate --model "$dir/model" --prompt "a red ball" --size 32x32 --frames 1 --steps 1 --cfg 1 \
        --device "$1" -o "$dir/$1.y4m" 2>"$dir/said" >/dev/null
}

make_clip cpu || fail "--device cpu: $(cat "$dir/said")"
grep -q CUDA "$dir/said" && fail "--device cpu speaks of CUDA: $(cat "$dir/said")"
make_clip auto || fail "--device auto does not fall back: $(cat "$dir/said")"
grep -q "runs on the CPU: .*none.so" "$dir/said" || fail "no notice: $(cat "$dir/said")"
cmp "$dir/cpu.y4m" "$dir/auto.y4m" || fail "auto without a card differs from cpu"

rc=0
make_clip cuda || rc=$?
[ "$rc" = 1 ] || fail "--device cuda without a module: exit status $rc, expected 1"
[ "$(wc -l <"$dir/said")" = 1 ] || fail "--device cuda: not one line: $(cat "$dir/said")"
grep -q "no CUDA device: .*none.so" "$dir/said" || fail "no reason: $(cat "$dir/said")"
[ ! -e "$dir/cuda.y4m" ] || fail "a clip in spite of the failure"

# Products of 8-bit floats are a GPU's.
for device in cpu auto; do
    rc=0
    "$t3v" generate --model "$dir/model" --prompt x --size 32x32 --frames 1 --device $device --act fp8 -o "$dir/x.png" 2>"$dir/said" ||
        rc=$?
    [ "$rc" = 1 ] && grep -q -- "--act fp8 is computed on a GPU alone" "$dir/said" || fail "--act fp8, $device: $rc, $(cat "$dir/said")"
done

# A shared object that is something else.
for so in "${T3V_BUILD:-build}"/libt3v-av.so; do
    [ -e "$so" ] || continue
    rc=0
    T3V_CUDA=$so "$t3v" text --model "$dir/model" --prompt x --device cuda -o "$dir/x" 2>"$dir/said" || rc=$?
    [ "$rc" = 1 ] && grep -q "is no CUDA module" "$dir/said" || fail "another module: $rc, $(cat "$dir/said")"
done

# Whatever takes --device cuda says in one line that there is none; what has no use for a GPU says that.
refused() { # PATTERN command...
    local pattern=$1 rc=0
    shift
    "$t3v" "$@" --device cuda 2>"$dir/said" >/dev/null || rc=$?
    [ "$rc" = 1 ] || fail "$* --device cuda: exit status $rc, expected 1: $(cat "$dir/said")"
    [ "$(wc -l <"$dir/said")" = 1 ] || fail "$* --device cuda: not one line: $(cat "$dir/said")"
    grep -q "$pattern" "$dir/said" || fail "$* --device cuda: $(cat "$dir/said")"
}
some=(--model "$dir/model")
cat >"$dir/variants.json" <<<'{"prompts":["a red ball"],"variants":[{"name":"a","model":"model"},{"name":"b","model":"model","plan":"t3"}]}'
refused "no CUDA device: .*none.so" text "${some[@]}" --prompt x -o "$dir/x"
refused "no CUDA device: .*none.so" dit "${some[@]}" --latent "$dir/x" --context "$dir/x" --timestep 1 -o "$dir/x"
refused "no CUDA device: .*none.so" encode "${some[@]}" -i "$dir/cpu.y4m" -o "$dir/x"
refused "no CUDA device: .*none.so" decode "${some[@]}" -i "$dir/x" -o "$dir/x.y4m"
refused "no CUDA device: .*none.so" eval synth "${some[@]}" --count 1 --seed 1 --size 32x32 --frames 5 --steps 1
refused "no CUDA device: .*none.so" attend --plan full --grid 1,2,2 -i "$dir/x" -o "$dir/x"
refused "no CUDA device: .*none.so" eval attention "${some[@]}" --plan full --data "$dir/x"
refused "no CUDA device: .*none.so" data latents "${some[@]}" --videos "$dir" -o "$dir/latents"
for what in attention gemm conv block step vae; do
    refused "no CUDA device: .*none.so" bench $what
done
refused "CPU alone" plan --plan full --grid 1,2,2
refused "CPU alone" inspect "$dir/model"
refused "CPU alone" eval video --test "$dir/cpu.y4m"
refused "CPU alone" data synth --count 1 -o "$dir/synth"
"$t3v" plan --plan full --grid 1,2,2 --device auto 2>"$dir/said" >/dev/null || fail "plan --device auto: $(cat "$dir/said")"
grep -q "runs on the CPU: .*no use" "$dir/said" || fail "plan --device auto: no notice: $(cat "$dir/said")"
rc=0
rc=0
"$t3v" plan --plan full --grid 1,2,2 --device gpu 2>"$dir/said" >/dev/null || rc=$?
[ "$rc" = 2 ] || fail "--device gpu: $rc"
