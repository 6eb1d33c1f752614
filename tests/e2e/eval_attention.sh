#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# t3v eval attention: full attention is itself, T3 is not; the same numbers with 1 and 2 threads; bad input is told.
set -euo pipefail
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
refused() { # STATUS WORDS ARGS...
    local want=$1 words=$2 status=0
    shift 2
    "$t3v" eval attention "$@" --quiet >"$dir/out" 2>"$dir/err" || status=$?
    test $status = "$want" && grep -q -- "$words" "$dir/err" || { echo "eval attention $*: status $status"; cat "$dir/err"; exit 1; }
}

"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 \
    --tokenizer tests/golden/wan/tiny/google/umt5-xxl/spiece.model -o "$dir/model" >/dev/null
"$t3v" data synth -q --count 2 --seed 5 --size 96x64 --frames 5 --format y4m -o "$dir/v"
"$t3v" data latents -q --model "$dir/model" --size 96x64 --frames 5 --start first --videos "$dir/v" -o "$dir/data" >/dev/null
judge() { "$t3v" eval attention -q --model "$dir/model" --data "$dir/data" --precision f32 --json "$@"; }

judge --plan full >"$dir/full"
judge --plan t3:blocks=2x2x3 --threads 1 --timesteps 100,900 --queries 16 >"$dir/one"
judge --plan t3:blocks=2x2x3 --threads 2 --timesteps 100,900 --queries 16 >"$dir/two"
cmp "$dir/one" "$dir/two"
judge --plan hybrid >"$dir/hybrid"
/usr/bin/python3 - "$dir" <<'PY'
import json, sys
full, t3, hybrid = (json.load(open(f'{sys.argv[1]}/{n}')) for n in ('full', 'one', 'hybrid'))
assert len(full['layers']) > 1 and full['clips'] == 2 and full['levels'] == 3 and t3['levels'] == 2
for l in full['layers']: assert l['kept'] == 1 and abs(l['recall'] - 1) < 1e-9 and l['error'] < 1e-5, l
assert full['velocity_error'] < 1e-6, full
for l in t3['layers']: assert 0.1 < l['kept'] < 0.3 and 0.05 < l['recall'] < 0.95 and l['error'] > 1e-3, l
assert 1e-5 < t3['velocity_error'] < 2, t3
for l in hybrid['layers']: assert 0 < l['kept'] <= 1 and 0 < l['recall'] <= 1 + 1e-9, l
PY
"$t3v" eval attention -q --model "$dir/model" --data "$dir/data" --plan full | grep -q '^    0  100.00    100.00'

refused 2 "column" --model "$dir/model" --data "$dir/data" --plan t4
refused 2 "expected up to 16 numbers" --model "$dir/model" --data "$dir/data" --plan full --timesteps 100,x
refused 2 "expected up to 16 numbers" --model "$dir/model" --data "$dir/data" --plan full --timesteps 1001
refused 2 "are needed" --model "$dir/model" --plan full
refused 1 "index.json" --model "$dir/model" --data "$dir/v" --plan full
echo "eval attention: ok"
