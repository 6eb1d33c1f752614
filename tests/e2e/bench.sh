#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# t3v bench block and step: one JSON object with every key, and the multiply-adds that a hand count gives.
set -u
t3v=$1
fail() { echo "bench: $*" >&2; exit 1; }
number() { grep -o "\"$1\":[0-9.e+-]*" <<<"$2" | cut -d: -f2; }

# tiny: dim 64, ffn 96, 2 heads of 32, 5 layers, 16 channels, freq 256. 64x48, 5 frames: 2 x 3 x 4 = 24 tokens. 20 text
# rows and one for the padding.
layer=$((24 * (6 * 64 * 64 + 2 * 64 * 96) + 2 * 2 * 32 * 24 * 24 + 2 * 2 * 32 * 24 * 21))
step=$((5 * layer + 24 * 64 * (64 + 64) + 64 * 256 + 64 * 64 + 6 * 64 * 64))
for what in block step; do
    line=$("$t3v" bench $what --config tiny --size 64x48 --frames 5 --repeat 2 --threads 1 --json) || fail "$what failed"
    [ "$(wc -l <<<"$line")" = 1 ] || fail "$what: more than one line: $line"
    python3 -c 'import json, sys; json.loads(sys.argv[1])' "$line" || fail "$what: not JSON: $line"
    for key in what seconds cpu_seconds flop gflops peak_gflops threads isa peak_rss_bytes config weights plan grid tokens text_rows; do
        grep -q "\"$key\":" <<<"$line" || fail "$what: no $key in $line"
    done
    [ $what = block ] && want=$((2 * layer)) || want=$((2 * step))
    [ "$(number flop "$line")" = "$want" ] || fail "$what: flop $(number flop "$line"), expected $want"
    [ "$(number tokens "$line")" = 24 ] || fail "$what: $line"
done
expect() { # status, pattern of the message, then arguments
    local want=$1 pattern=$2; shift 2
    local message got
    message=$("$t3v" bench "$@" 2>&1 >/dev/null)
    got=$?
    [ $got = "$want" ] || fail "bench $*: status $got, expected $want: $message"
    grep -q -- "$pattern" <<<"$message" || fail "bench $*: unhelpful: $message"
}
line=$("$t3v" bench attention --grid 2,3,4 --heads 3 --dim 16 --queries 5 --repeat 1 --json) || fail "--queries failed"
[ "$(number flop "$line")" = $((2 * 2 * 3 * 16 * 5 * 24)) ] || fail "attention of 5 queries: $line"
# t3 by layers: one block of everything in layer 0, one block a frame in layer 1
t3=t3:blocks=1x1x1/2x1x1
for i in 0 1; do
    line=$("$t3v" bench attention --grid 2,3,4 --heads 3 --dim 16 --plan $t3 --layer $i --repeat 1 --json) || fail "--layer failed"
    [ "$(number flop "$line")" = $((2 * 2 * 3 * 16 * 24 * 24 / (i + 1))) ] || fail "attention of layer $i: $line"
done
# a plan with parameters of its own
for what in "attention --grid 1,4,4 --heads 2 --dim 16 --backward" "block --config tiny --size 64x48" "step --config tiny --size 64x48"; do
    "$t3v" bench $what --plan hybrid --repeat 1 --json --quiet > /dev/null || fail "$what with hybrid failed"
done
line=$("$t3v" bench attention --grid 2,3,4 --heads 3 --dim 16 --first-heads 1 --repeat 2 --json) || fail "--first-heads failed"
[ "$(number flop "$line")" = $((2 * 2 * 16 * 24 * 24)) ] || fail "attention of one head: $line"
for key in percent_of_peak percent_by_cpu_time percent_by_cpu_time_range; do
    grep -q "\"$key\":" <<<"$line" || fail "attention: no $key in $line"
done
if grep -q '"isa":"avx512bf16"' <<<"$line"; then # the composition must give what the kernel gives, else it fails
    line=$("$t3v" bench attention --grid 1,6,8 --heads 2 --dim 32 --composed --repeat 1 --json) || fail "--composed failed"
    grep -q '"what":"attention_composed"' <<<"$line" || fail "--composed: $line"
fi
# packed weights: the same products, and types whose blocks do not fit the rows are refused
line=$("$t3v" bench block --config tiny --size 64x48 --frames 5 --weight q8_0 --repeat 1 --json) || fail "--weight failed"
grep -q '"weight":"Q8_0"' <<<"$line" || fail "--weight: $line"
[ "$(number flop "$line")" = $((2 * layer)) ] || fail "--weight: $line"
# packed weights and 8-bit activations in turn with the plain ones
for what in "block --weight q8_0" "block --act int8" "step --act int8 --weight q8_0"; do
    line=$("$t3v" bench $what --config tiny --size 64x48 --frames 5 --repeat 2 --json) || fail "$what failed"
    python3 -c 'import json, sys; json.loads(sys.argv[1])' "$line" || fail "$what: not JSON: $line"
    for key in plain plain_seconds faster faster_range; do
        grep -q "\"$key\":" <<<"$line" || fail "$what: no $key in $line"
    done
    act=float
    case $what in *int8*) act=int8 ;; esac
    grep -q "\"act\":\"$act\"" <<<"$line" || fail "$what: $line"
done
line=$("$t3v" bench block --config tiny --size 64x48 --frames 5 --repeat 1 --json) || fail "block failed"
! grep -q '"plain"' <<<"$line" || fail "a plain block beside itself: $line"
expect 2 "expected float, int8 or fp8" block --act int4
expect 2 "not of attention" attention --act int8
expect 1 "computed on a GPU alone" block --act fp8
expect 2 "whole blocks of 256" block --config tiny --size 64x48 --weight q4_k
expect 2 "expected a type" gemm --weight iq4
expect 2 "--weight is for random" block --model x --weight q8_0
expect 2 "divisor" attention --grid 1,1,31 --heads 1 --dim 16 --composed --precision bf16 --repeat 1
expect 2 "there are 2" attention --heads 2 --first-heads 3
expect 2 "0 to 4" block --config tiny --layer 5 --size 64x48
expect 2 "goes with the plan full" attention --plan $t3 --queries 3
expect 2 "known: wan2.1-t2v-1.3b" step --config nonsense
expect 2 "4n+1" step --config tiny --frames 6
expect 2 "not both" block --config tiny --model x
expect 2 "nothing there" block --model /nonexistent/x
exit 0
