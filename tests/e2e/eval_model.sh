#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Scores of what a model makes: the same numbers as those of the same clips in files, from one load of the model.
set -euo pipefail
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
holds() { awk "BEGIN { exit !($1) }" || { echo "not true: $1" >&2; exit 1; }; }
number() { sed -n "s/.*\"$2\": \([0-9.e-]*\).*/\1/p" "$1"; }

"$t3v" init --config tiny --seed 5 -o "$dir/model" --quiet > /dev/null
opt=(--size 48x40 --frames 5 --steps 2 --cfg 3)
"$t3v" eval synth --model "$dir/model" --count 3 --seed 20 "${opt[@]}" --sheet "$dir/sheet.png" --json --quiet > "$dir/a.json"
for key in vtc_s vtc_s_sd vqa_s vqa_s_sd seconds parts; do grep -q "\"$key\"" "$dir/a.json"; done
[ "$(number "$dir/a.json" count)" = 3 ]
head -c 4 "$dir/sheet.png" | grep -q PNG

echo "# the same clips through generate and lossless files: same scenes, seeds and scores (up to 8 bits a sample)"
"$t3v" data synth --count 3 --seed 20 --held-out --canonical --captions-only "$dir/captions.txt"
mkdir "$dir/clips"
i=0
entries=
while IFS= read -r caption; do
    "$t3v" generate --model "$dir/model" "${opt[@]}" --prompt "$caption" --seed $((20 + i)) -o "$dir/clips/$i.mkv" --codec ffv1 --quiet > /dev/null
    entries="$entries${entries:+, }{\"prompt_en\": \"$caption\", \"data_file\": \"$i.mkv\"}"
    i=$((i + 1))
done < "$dir/captions.txt"
[ $i = 3 ]
echo "[$entries]" > "$dir/captions.json"
"$t3v" eval synth --videos "$dir/clips" --captions "$dir/captions.json" --json --quiet > "$dir/b.json"
holds "($(number "$dir/a.json" vtc_s) - $(number "$dir/b.json" vtc_s))^2 < 0.02^2"
holds "($(number "$dir/a.json" vqa_s) - $(number "$dir/b.json" vqa_s))^2 < 2^2"

echo "# nothing is left behind; the same call gives the same numbers with another number of threads"
for threads in 1 2; do
    "$t3v" eval synth --model "$dir/model" --count 2 --seed 1 "${opt[@]}" --json --quiet --threads $threads \
        | sed 's/"seconds": [^,]*,//' > "$dir/t$threads.json"
done
cmp "$dir/t1.json" "$dir/t2.json"
[ -z "$(find "$dir" -name '*.t3v-state')" ]

bad() { # status, words, arguments...
    local want=$1 words=$2 rc=0
    shift 2
    "$t3v" eval synth "$@" > "$dir/out" 2> "$dir/err" || rc=$?
    if [ $rc != "$want" ] || ! grep -q -- "$words" "$dir/err"; then
        echo "t3v eval synth $*: exit $rc (wanted $want), said: $(cat "$dir/err")" >&2
        exit 1
    fi
}
bad 2 "--count go together" --model "$dir/model"
bad 2 "go with --model" --real 1 --steps 3
bad 2 "give one of" --model "$dir/model" --count 1 --real 1
bad 2 "the nearest is 9" --model "$dir/model" --count 1 --frames 8
bad 2 "at least 32x32" --model "$dir/model" --count 1 --size 16x16 --frames 5 --steps 1
echo ok
