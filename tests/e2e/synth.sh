#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A procedural data set is written, resumed, scored; renders beat noise; wrong use is told.
set -euo pipefail
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
number() { sed -n "s/.*\"$1\": \([0-9.e-]*\).*/\1/p"; }
holds() { awk "BEGIN { exit !($1) }" || { echo "not true: $1"; exit 1; }; }

"$t3v" data synth --count 4 --seed 9 --size 96x64 --format y4m -o "$dir/a" --quiet
test "$(ls "$dir/a" | wc -l)" = 5
cp -r "$dir/a" "$dir/b"
rm "$dir/b/clip_000002.y4m" "$dir/b/captions.json"
touch -d 2001-01-01 "$dir/b/clip_000001.y4m"
"$t3v" data synth --count 4 --seed 9 --size 96x64 --format y4m -o "$dir/b" --quiet
diff -r "$dir/a" "$dir/b"
test "$(date -r "$dir/b/clip_000001.y4m" +%Y)" = 2001 # kept, not written again

scores=$("$t3v" eval synth --videos "$dir/a" --captions "$dir/a/captions.json" --json --quiet)
holds "$(number vtc_s <<<"$scores") > 0.97"
holds "$(number vqa_s <<<"$scores") > 90"
holds "$(number count <<<"$scores") == 4"

real=$("$t3v" eval synth --real 4 --seed 3 --held-out --json --quiet --sheet "$dir/sheet.png")
noise=$("$t3v" eval synth --noise 2 --json --quiet)
holds "$(number vtc_s <<<"$real") > 0.97 && $(number vtc_s <<<"$noise") < 0.2"
holds "$(number vqa_s <<<"$real") > 95 && $(number vqa_s <<<"$noise") < 10"
head -c 4 "$dir/sheet.png" | grep -q PNG

"$t3v" data synth --count 50 --captions-only "$dir/train.txt"
"$t3v" data synth --count 50 --captions-only "$dir/again.txt"
cmp "$dir/train.txt" "$dir/again.txt"
test "$(wc -l <"$dir/train.txt")" = 50

status=0
"$t3v" eval synth --real 1 --noise 1 2>"$dir/err" || status=$?
test $status = 2
grep -q -- --videos "$dir/err"
status=0
echo '[{"prompt_en":"A small red circle moves left on a plain gray background.","data_file":"../a/clip_000000.y4m"}]' >"$dir/bad.json"
"$t3v" eval synth --videos "$dir/a" --captions "$dir/bad.json" 2>"$dir/err" || status=$?
test $status = 1
grep -q 'entry 0: data_file' "$dir/err"
