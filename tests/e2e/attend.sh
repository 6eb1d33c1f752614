#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# t3v attend: with q = 0 every output is the mean of v and every lse is ln N; wrong use and wrong files are told apart.
set -u
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "attend: $*" >&2; exit 1; }

header='{"q":{"dtype":"F32","shape":[4,1,16],"data_offsets":[0,256]},"k":{"dtype":"F32","shape":[4,1,16],"data_offsets":[256,512]},"v":{"dtype":"F32","shape":[4,1,16],"data_offsets":[512,768]}}'
while (( ${#header} % 8 )); do header+=' '; done
{
    printf "\\x$(printf %02x ${#header})\\0\\0\\0\\0\\0\\0\\0%s" "$header"
    head -c 512 /dev/zero
    for one in '\0\0\200\77' '\0\0\0\100' '\0\0\100\100' '\0\0\200\100'; do # 1, 2, 3, 4
        for i in {1..16}; do printf "$one"; done
    done
} > "$dir/in.safetensors"

for precision in f32 bf16; do
    "$t3v" attend --plan full --grid 1,2,2 --precision $precision -i "$dir/in.safetensors" -o "$dir/out.safetensors" || fail "run ($precision)"
    # The last 80 floats, whichever tensor comes first: 64 times 2.5 and 4 times ln 4.
    tail -c 272 "$dir/out.safetensors" | od -An -v -tf4 -w4 | awk '
        { if ($1 > 2.49 && $1 < 2.51) out++; else if ($1 > 1.38 && $1 < 1.39) lse++; else bad++ }
        END { exit !(out == 64 && lse == 4 && !bad) }' || fail "wrong numbers ($precision)"
done
"$t3v" attend --plan jenga:block=2 --grid 1,2,2 --step 3/4 -i "$dir/in.safetensors" -o "$dir/out.safetensors" > "$dir/density" || fail "jenga"
grep -q '^density  1.0000' "$dir/density" || fail "neighbours left out: $(cat "$dir/density")"
"$t3v" attend --plan rainfusion2:block=1,window=1,sparsity=1 --grid 4,1,1 --json -i "$dir/in.safetensors" -o "$dir/out.safetensors" > "$dir/density" || fail "rainfusion2"
# The first block meets all, the others the first and whichever scores highest: with q = 0 that is the first.
grep -q '^{"pairs":7,"density":0.4375}' "$dir/density" || fail "not 7 pairs: $(cat "$dir/density")"
expect() { # status, then arguments
    local want=$1; shift
    "$t3v" attend "$@" >/dev/null 2>"$dir/err"
    local got=$?
    [ $got = "$want" ] || fail "attend $*: status $got, expected $want: $(cat "$dir/err")"
}
expect 2 --plan full --grid 1,2,2
expect 2 --plan nonsense --grid 1,2,2 -i "$dir/in.safetensors" -o "$dir/x.safetensors"
grep -q "column 1: unknown pattern 'nonsense'; known: .*full" "$dir/err" || fail "unhelpful: $(cat "$dir/err")"
for step in 3/3 -1/3 1 x/2 2/1/2; do
    expect 2 --plan full --grid 1,2,2 --step $step -i "$dir/in.safetensors" -o "$dir/x.safetensors"
    grep -q -- "--step $step: expected I/N" "$dir/err" || fail "unhelpful: $(cat "$dir/err")"
done
expect 0 --plan full --grid 1,2,2 --step 2/3 -i "$dir/in.safetensors" -o "$dir/out.safetensors"
expect 1 --plan full --grid 1,2,3 -i "$dir/in.safetensors" -o "$dir/x.safetensors"
expect 1 --plan full --grid 1,2,2 -i "$dir/absent" -o "$dir/x.safetensors"
[ ! -e "$dir/x.safetensors" ] || fail "a failed run left a file"
exit 0
