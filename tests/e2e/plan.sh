#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# t3v plan: the published figures, where counts come from, the picture, wrong use; a plan that is stored with weights.
set -euo pipefail
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
has() { grep -q -- "$1" "$2" || { echo "$2 does not say '$1':"; head -c 2000 "$2"; exit 1; }; }

"$t3v" plan --plan t3 --config wan2.1-t2v-1.3b --grid 21,136,240 --json > "$dir/a" 2> "$dir/err"
has '^{"grid":\[21,136,240\],"tokens":685440,"layers":30,"macs_full":43299347890176000,"macs_plan":594456383324160,"ratio":72.83' "$dir/a"
has '"reach":[0-9]*,"layer":\[{"index":0,"pattern":"t3","blocks":\[21,1,1\],"terms":1,"keys_per_query":32640,"macs":68729123635200}' "$dir/a"
has '^counts: table' "$dir/err"
"$t3v" plan --plan t3 --config wan2.2-ti2v-5b --grid 21,68,120 --json > "$dir/a" 2> /dev/null
has '"macs_full":5412418486272000,"macs_plan":100832194068480,"ratio":53.67' "$dir/a"
"$t3v" plan --plan t3 --size 3840x2160 --frames 81 --layers 5 > "$dir/a"
has '^grid     21x136x240' "$dir/a" # the table's, not 135
has '^counts   table' "$dir/a"
"$t3v" plan --plan "layers 0 -> full; t3" --size 832x480 --frames 81 --layers 2 > "$dir/a"
has '^0 *full *1x1x1' "$dir/a"
has '^counts   derived' "$dir/a"
"$t3v" plan --plan t3:blocks=5x1x1 --grid 5,4,4 --layers 2 --json > "$dir/a" 2> /dev/null
has '"reach":null' "$dir/a"
"$t3v" plan --list > "$dir/a"
has '^t3 ' "$dir/a"
has 'branch=WORD' "$dir/a"
for pattern in full t3 swin tile jenga rainfusion2; do has "^$pattern " "$dir/a"; done
has '^    window=' "$dir/a"
has '^    as in  tile:k=1' "$dir/a"
"$t3v" plan --list --json > "$dir/a"
has '{"name":"tile","summary":"[^"]*","needs_tuning":false,"options":\[{"name":"k","help":"[^"]*"}\],"examples":\["tile:k=1",' "$dir/a"

"$t3v" plan --plan jenga --size 832x480 --frames 81 --layers 1 --json > "$dir/a" 2> /dev/null
has '"keys_per_query":8184,.*"note":"keys are chosen by content' "$dir/a" # 64 of 256 blocks, of which one has 120 tokens
"$t3v" plan --plan jenga --size 832x480 --frames 81 --layers 1 --step 1/50 > "$dir/a"
has '^sum .* 1.00 times as many' "$dir/a"
has '^note .*fewest kept' "$dir/a"
"$t3v" plan --plan t3 --grid 2,4,4 --layers 1 > "$dir/a"
! grep -q '^note' "$dir/a"

"$t3v" plan --plan "t3:blocks=5x1x1/1x3x5,family=5b" --grid 5,7,11 --layers 4 --query 4,6,10 --svg "$dir/p.svg" > /dev/null
has '<svg xmlns' "$dir/p.svg"
has 'layers 1, 3<' "$dir/p.svg"
[ "$(tail -n 1 "$dir/p.svg")" = "</svg>" ]

for plan in swin:window=2x3x5 tile:k=2; do
    "$t3v" plan --plan $plan --grid 5,7,11 --layers 4 --query 1,3,5 --svg "$dir/p.svg" --json > "$dir/a" 2> /dev/null
    has '"pattern":"\(swin\|tile\)","blocks":\[[35],[31],[31]\],"terms":1' "$dir/a"
    has '<circle' "$dir/p.svg"
done

refused() { # STATUS TEXT ARGUMENTS
    local rc=0
    "$t3v" "${@:3}" > /dev/null 2> "$dir/err" || rc=$?
    [ $rc = "$1" ] || { echo "status $rc of ${*:3}"; exit 1; }
    has "$2" "$dir/err"
}
refused 2 "column 13: 9 blocks along height" plan --plan t3:blocks=1x9x1 --grid 5,4,4
refused 2 "column 13: 0 tokens of a window along time" plan --plan swin:window=0x1x1 --grid 5,4,4
refused 2 "column 8: 6 reference frames" plan --plan tile:k=6 --grid 5,4,4
refused 2 "column 8: the model has layers 0 to 29" plan --plan "layers 30 -> swin" --grid 5,4,4
refused 2 "column 7: this rule can never match" plan --plan "tile; layers 1 -> swin" --grid 5,4,4
refused 2 "unknown pattern 'tiles'" plan --plan tiles --grid 5,4,4
refused 1 "more than 2^31-1 tokens" plan --plan tile --grid 2097152,2097152,2097152
refused 2 "column 7: the model has heads 0 to 11" plan --plan "heads 12 -> jenga" --grid 5,4,4
refused 2 "expected I/N" plan --plan jenga --grid 5,4,4 --step 3/3
refused 2 "outside the grid" plan --plan t3 --grid 5,4,4 --query 5,0,0 --svg "$dir/q.svg"
refused 2 "no model configuration" plan --plan t3 --grid 5,4,4 --config huge
refused 2 "expected 4n+1" plan --plan t3 --size 64x64 --frames 8
refused 2 "is needed" plan --plan t3
[ ! -e "$dir/q.svg" ]

echo "# weights that are not tuned for t3 warn; a stored plan is found by its pattern's name and does not"
cp -r tests/golden/wan/tiny "$dir/model"
small=(generate --model "$dir/model" --prompt x --size 64x48 --frames 5 --steps 1 --dry-run -o "$dir/v.mp4")
"$t3v" "${small[@]}" --plan t3 > /dev/null 2> "$dir/err"
has 'not known to be tuned for plan t3' "$dir/err"
echo '{"plan": "t3:blocks=2x1x1/1x1x2", "plan_grid": [2, 3, 4]}' > "$dir/model/t3v.json"
for more in "" "--plan t3"; do
    # shellcheck disable=SC2086
    "$t3v" "${small[@]}" $more > /dev/null 2> "$dir/err"
    ! grep -q tuned "$dir/err"
done
"$t3v" plan --model "$dir/model" --plan t3 --size 64x48 --frames 5 > "$dir/a"
has 'counts   stored' "$dir/a"
"$t3v" "${small[@]}" --frames 9 > /dev/null 2> "$dir/err"
has 'were tuned for plan t3:blocks' "$dir/err"

echo "# plans that differ by head and step, and choose by content, in a whole run"
rm "$dir/model/t3v.json"
"$t3v" "${small[@]/--dry-run/--quiet}" --plan "heads 0 -> full; steps 0 -> full; jenga:block=4,p=0.5" --steps 3 -o "$dir/v.mp4" > /dev/null 2> "$dir/err"
[ -s "$dir/v.mp4" ]
