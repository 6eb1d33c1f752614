#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bench/gpu.sh without a card: parts that succeed, fail, are skipped or run out of time each leave their line in the table.
set -euo pipefail
build=${T3V_BUILD:?}
[ -e "$build/tests/libt3v-cuda-emulated.so" ] || exit 77
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "gpu_script: $*" >&2; cat "$dir/out" >&2; exit 1; }
mkdir "$dir/bin"
printf '#!/bin/sh\ncase $2 in memcheck) exit 0;; *) echo "RACE found"; exit 9;; esac\n' >"$dir/bin/compute-sanitizer"
printf '#!/bin/sh\n[ "$1" = -c ] && { echo 9.9; exit; }\nshift 4\nfor b; do echo "$b 250.5 flash"; done\n' >"$dir/bin/python3"
chmod +x "$dir"/bin/*
run() { # ONLY [variables]: its table in $dir/out, its status in $rc
    local only=$1
    shift
    rc=0
    env DRY=1 BUILD="$build" RESULTS="$dir/results" ONLY="$only" "$@" bash bench/gpu.sh >"$dir/out" 2>&1 || rc=$?
    cmp -s "$dir/out" "$dir/results/table.md" || fail "what it says is not what it keeps"
}
has() { grep -q -- "$1" "$dir/out" || fail "no line like: $1"; }

run 'kernels|attention|sanitizer' PATH="$dir/bin:$PATH"
[ $rc = 1 ] || fail "exit status $rc, expected 1"
has 'PyTorch 9.9'
has '^\* ok: every kernel'
has '^\* ok: products of 8-bit floats'
[ "$(grep -c '^| T3, kind . 16 tokens\|^| T3, kind ., 16 tokens | [0-9.]* | [0-9.]* | [0-9.]* | [0-9.]* | [0-9.]* |$' "$dir/out")" = 2 ] || fail "not two kinds of layers"
has '^| T3, kind 1, PyTorch (flash) | 250.5 |'
has '^| full, 16 tokens, PyTorch (flash) | 250.5 |'
has '^The same in PyTorch: 0.50 s, [0-9.]* times as long'
has '^\* ok: compute-sanitizer memcheck'
has '^\* \*\*FAILED\*\*: compute-sanitizer racecheck'
has 'RACE found'
has ' 6 failed;'

run dense PYTHON="$dir/none" SECONDS_ALL=3 # no time for anything
[ $rc = 1 ] || fail "out of time: exit status $rc"
has '^| gemm | \*\*FAILED\*\*: no time left of 3 s'
has ' 5 failed;'

rc=0
bash bench/gpu.sh something >"$dir/out" 2>&1 || rc=$?
[ $rc = 2 ] && has 'gpu.sh pack DIR' || fail "another word: $rc"
rc=0
env BUILD="$dir/nothing" RESULTS="$dir/results" DRY=1 PATH="$dir/bin:/usr/bin:/bin" bash bench/gpu.sh pack "$dir/packed" >"$dir/out" 2>&1 || rc=$?
[ $rc = 1 ] && has 'libt3v-cuda.so is missing' || fail "pack without a module: $rc"
