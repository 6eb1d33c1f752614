#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a file or a directory is, what it lacks and where that was looked for, what a clip takes; a file of 28 GB is looked
# at in little time and memory.
set -euo pipefail
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
has() { grep -q -- "$1" "$dir/out" || { echo "no '$1' in:"; head -60 "$dir/out"; exit 1; }; }
inspect() { # STATUS ARGS...
    local want=$1 rc=0
    shift
    "$t3v" inspect "$@" > "$dir/out" 2> "$dir/err" || rc=$?
    [ $rc = "$want" ] || { echo "inspect $*: status $rc, expected $want"; cat "$dir/out" "$dir/err"; exit 1; }
}

echo "# Wan2.1 14B in BF16: 28.6 GB, of which only the header is there"
awk 'function add(name, shape, n) {
        printf "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%.0f,%.0f]}", (at ? "," : "{"), name, shape, at, at + 2 * n
        at += 2 * n
    }
    function linear(name, out, in_) { add(name ".weight", out "," in_, out * in_); add(name ".bias", out, out) }
    BEGIN {
        d = 5120; f = 13824
        add("patch_embedding.weight", d ",16,1,2,2", d * 64); add("patch_embedding.bias", d, d)
        linear("text_embedding.0", d, 4096); linear("text_embedding.2", d, d)
        linear("time_embedding.0", d, 256); linear("time_embedding.2", d, d); linear("time_projection.1", 6 * d, d)
        for (i = 0; i < 40; i++) {
            b = "blocks." i "."
            add(b "modulation", "1,6," d, 6 * d); add(b "norm3.weight", d, d); add(b "norm3.bias", d, d)
            for (s = 0; s < 2; s++) {
                a = b (s ? "cross_attn." : "self_attn.")
                linear(a "q", d, d); linear(a "k", d, d); linear(a "v", d, d); linear(a "o", d, d)
                add(a "norm_q.weight", d, d); add(a "norm_k.weight", d, d)
            }
            linear(b "ffn.0", f, d); linear(b "ffn.2", d, f)
        }
        add("head.modulation", "1,2," d, 2 * d); linear("head.head", 64, d)
        printf "}"
        printf "%.0f", at > "/dev/stderr"
    }' > "$dir/header" 2> "$dir/bytes"
n=$(stat -c %s "$dir/header")
{
    for i in 0 8 16 24 32 40 48 56; do printf "\\x$(printf %02x $((n >> i & 255)))"; done
    cat "$dir/header"
} > "$dir/big.safetensors"
truncate -s $((8 + n + $(cat "$dir/bytes"))) "$dir/big.safetensors"
[ "$(stat -c %s "$dir/big.safetensors")" -gt 28000000000 ]
TIMEFORMAT='%U %S'
{ time "$t3v" inspect --json "$dir/big.safetensors" > "$dir/out" 2> "$dir/err"; } 2> "$dir/time"
has '"family": "wan2.1-t2v-14b"'
has '"parameters": 14288491584'
has '"tensors": 1095'
has '"part": "text"'
has '"models_t5_umt5-xxl-enc-bf16.pth"'
has '"option": "--vae"'
peak=$(sed -n 's/.*"peak_rss_bytes": \([0-9]*\).*/\1/p' "$dir/out")
echo "    peak $((peak >> 20)) MiB, user and system seconds $(cat "$dir/time")"
[ "$peak" -lt $((50 << 20)) ]
awk '{ exit !($1 + $2 < 1) }' "$dir/time"
truncate -s -1 "$dir/big.safetensors" # cut short
inspect 1 "$dir/big.safetensors"
grep -q "truncated or damaged" "$dir/err"

echo "# a model: what it lacks, what runs, what a clip takes"
m=$dir/tiny
"$t3v" init --quiet --config tiny --parts dit,tokenizer -o "$m" > /dev/null
inspect 0 "$m"
has "layout original"
has "^missing   vae: looked in $m for Wan2.1_VAE.pth, .*--vae names it"
has "^missing   text: "
has "^runs      dit$"
inspect 2 "$m" --size 64x64
grep -q "whole model" "$dir/err"
"$t3v" init --quiet --config tiny --parts vae,text -o "$m" > /dev/null
inspect 0 "$m" --size 96x64 --frames 9 --plan full
has "^runs      generate text dit encode decode$"
has "^clip      96x64, 9 frames, 4 steps: 0.*GiB, 8 passes"
"$t3v" inspect --json --size 96x64 --frames 9 "$m" > "$dir/out"
small=$(sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p' "$dir/out")
"$t3v" inspect --json --size 480x320 --frames 9 "$m" > "$dir/out"
large=$(sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p' "$dir/out")
[ "$large" -gt "$small" ]
dry=$("$t3v" generate --quiet --json --model "$m" --prompt x --size 480x320 --frames 9 --dry-run -o "$dir/x.y4m" |
    sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p')
[ "$dry" = "$large" ]
inspect 2 "$m" --frames 8
