#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Variants side by side on the tiny model: the numbers are those that the other commands give, names are text wherever they
# stand, what exists is kept, requests that cannot be met are told.
set -euo pipefail
t3v=$1
model=tests/golden/wan/tiny
[ -e "$(dirname "$t3v")/libt3v-av.so" ] || { echo "compare: skipped, no libav module was built"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
holds() { awk "BEGIN { exit !($1) }" || { echo "not true: $1 (line ${BASH_LINENO[*]})" >&2; exit 1; }; }
near() { holds "($1 - $2)^2 <= (1e-5 * $2)^2 + 1e-18"; }
value() { sed -n "s/^   \"$2\": \([^,]*\),*$/\1/p" "$dir/$1/compare.json" | sed -n "$(($3 + 1))p"; } # DIR KEY VARIANT
other() { sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p" "$dir/$1"; }                                     # FILE KEY
odd="<b>\"x'&,</b>"
t3=t3:blocks=1x1x1/1x2x2
base=(compare --quiet --model $model --size 64x64 --frames 5 --cfg 3)
run() { "$t3v" "${base[@]}" --steps 2 --seed 3 --variant plan=full --variant "name=$odd,plan=$t3" --variant name=same,plan=full "$@"; }

echo "# three variants of eight captions"
run --count 8 -o "$dir/a" --json > "$dir/a.json"
cmp "$dir/a.json" "$dir/a/compare.json"
[ "$(find "$dir/a" -name '*.mp4' | wc -l)" = 24 ]
[ -z "$(find "$dir/a" -type f ! -name '*.mp4' ! -name run.json ! -name index.html ! -name compare.json)" ]
folder=$(cd "$dir/a/clips" && ls -d _b_*)

echo "# costs are those of the plan and of the job"
"$t3v" plan --model $model --plan $t3 --size 64x64 --frames 5 --json > "$dir/plan.json"
near "$(value a attention_share 1)" "$(other plan.json macs_plan) / $(other plan.json macs_full)"
near "$(value a attention_share 0)" 1
"$t3v" generate --model $model --plan $t3 --size 64x64 --frames 5 --cfg 3 --steps 2 --dry-run --json > "$dir/dry.json"
near "$(value a macs 1)" "$(other dry.json flop) / 2"
holds "$(value a macs 1) < $(value a macs 0)"
for v in 0 1 2; do holds "$(value a seconds_a_step $v) > 0 && $(value a seconds $v) > 16 * $(value a seconds_a_step $v)"; done
holds "$(value a peak_bytes 0) > 2e7 && $(value a peak_bytes 0) < 2e9"

echo "# scores are those of t3v eval"
"$t3v" data synth --count 8 --seed 3 --held-out --canonical --captions-only "$dir/captions.txt"
awk 'BEGIN { printf "[" } { printf "%s{\"prompt_en\": \"%s\", \"data_file\": \"%05d.mp4\"}", (NR > 1 ? ", " : ""), $0, NR - 1 } END { print "]" }' \
    "$dir/captions.txt" > "$dir/captions.json"
"$t3v" eval synth --videos "$dir/a/clips/$folder" --captions "$dir/captions.json" --json --quiet > "$dir/synth.json"
for key in vtc_s vqa_s vtc_s_sd vqa_s_sd; do near "$(value a $key 1)" "$(other synth.json $key)"; done
"$t3v" eval video --ref "$dir/a/clips/full" --test "$dir/a/clips/$folder" --pairs --tile 32x32 --json --quiet |
    tr ',' '\n' > "$dir/video.json"
for key in flicker_error flicker warp_error frechet seam; do near "$(value a $key 1)" "$(other video.json $key)"; done
near "$(value a psnr 1)" "$(other video.json psnr_yuv)"
near "$(value a ssim 1)" "$(other video.json ssim_yuv)"
holds "$(value a frechet_renders 0) > 1"
# The same plan, seeds and weights: the same clips. The first has nothing to be held against.
[ "$(value a psnr 2)" = null ] && near "$(value a ssim 2)" 1 && holds "$(value a frechet 2) < 1e-6"
[ "$(value a psnr 0)" = null ] && [ "$(value a ssim 0)" = null ] && [ "$(value a frechet 0)" = null ]
cmp "$dir/a/clips/full/00007.mp4" "$dir/a/clips/same/00007.mp4"

echo "# one page that needs nothing else; names are text in it"
page=$dir/a/index.html
[ "$(grep -o '<video ' "$page" | wc -l)" = 24 ]
[ "$(grep -o 'src="data:video/mp4;base64,' "$page" | wc -l)" = 24 ]
[ "$(grep -o '<img alt="[^"]\{20,\}" src="data:image/svg+xml;base64,' "$page" | wc -l)" = 2 ] # a picture for each plan
! grep -qE 'https?:|<link|@import|clips/' "$page"
! grep -q '<b>"x' "$page"
grep -q '&lt;b&gt;&quot;x&#39;&amp;,&lt;/b&gt;' "$page"
grep -q '"name": "<b>\\"x'"'"'&,</b>"' "$dir/a/compare.json"
for words in '<th scope="row">' '<title>' 'prefers-color-scheme: dark' 'viewport' 'lang="en"'; do grep -q "$words" "$page"; done
# The clip inside is the clip beside.
sed -n '0,/.*src="data:video\/mp4;base64,/s///p' "$page" | sed 's/".*//' | head -1 | base64 -d | cmp - "$dir/a/clips/full/00000.mp4"

echo "# what exists is kept; more prompts go on from there; other settings are refused"
stamp() { stat -c '%n %Y.%i' "$dir"/a/clips/*/0000[0124567].mp4; }
before=$(stamp)
cp -r "$dir/a/clips" "$dir/kept"
rm "$dir/a/clips/full/00003.mp4" "$dir/a/clips/same/00003.mp4" "$dir/a/clips/$folder/00003.mp4" "$page"
run --count 8 -o "$dir/a" > "$dir/out"
[ "$before" = "$(stamp)" ] && [ -s "$page" ]
for name in full same "$folder"; do cmp "$dir/kept/$name/00003.mp4" "$dir/a/clips/$name/00003.mp4"; done
grep -q "$page" "$dir/out"
run --count 9 -o "$dir/a" --inline-limit 1K > /dev/null
[ "$before" = "$(stamp)" ]
grep -q 'data-src="clips/full/00008.mp4"' "$page"
! grep -q 'data:video' "$page"

bad() { # status, words, arguments...
    local want=$1 words=$2 rc=0
    shift 2
    "$t3v" "$@" > "$dir/out" 2> "$dir/err" || rc=$?
    if [ $rc != "$want" ] || ! grep -q -- "$words" "$dir/err"; then
        echo "t3v $*: exit $rc (wanted $want), said: $(cat "$dir/err")" >&2
        exit 1
    fi
}
again=("${base[@]}" --count 8 --variant plan=full --variant name=same,plan=full -o "$dir/a")
bad 2 "another steps (2, now 3)" "${again[@]}" --seed 3 --steps 3
bad 2 "another seed" "${again[@]}" --seed 4 --steps 2
cp -r $model "$dir/tuned"
"$t3v" init --config tiny --seed 8 -o "$dir/other" --quiet > /dev/null
cp "$dir/other/diffusion_pytorch_model.safetensors" "$dir/tuned/"
moved=("${base[@]}" --count 1 --steps 1 --variant "name=a,plan=full" --variant "name=b,plan=full,model=$dir/tuned" -o "$dir/b")
"$t3v" "${moved[@]}" > /dev/null
! cmp -s "$dir/b/clips/a/00000.mp4" "$dir/b/clips/b/00000.mp4" # weights of its own
"$t3v" init --config tiny --seed 9 -o "$dir/third" --quiet > /dev/null
cp "$dir/third/diffusion_pytorch_model.safetensors" "$dir/tuned/"
bad 2 "another weights" "${moved[@]}"

echo "# stopped by Ctrl-C, also while a clip is made: no process stays, the same command goes on to the same bytes"
long=("${base[@]}" --count 2 --steps 60 --variant plan=full --variant "name=t3,plan=$t3")
"$t3v" "${long[@]}" -o "$dir/whole" > /dev/null
(exec "$t3v" "${long[@]}" -o "$dir/cut" > /dev/null 2> "$dir/err") & pid=$!
for _ in $(seq 1000); do [ -e "$dir/cut/clips/full/00000.mp4" ] && break; sleep 0.02; done
child=$(cat /proc/$pid/task/$pid/children 2> /dev/null || true)
kill -INT $pid
rc=0; wait $pid || rc=$?
[ $rc = 130 ]
for p in $child; do [ ! -d "/proc/$p" ]; done
[ ! -e "$dir/cut/index.html" ]
"$t3v" "${long[@]}" -o "$dir/cut" > /dev/null
for clip in full/00000 full/00001 t3/00000 t3/00001; do cmp "$dir/whole/clips/$clip.mp4" "$dir/cut/clips/$clip.mp4"; done

echo "# prompts of one's own: no scores of scenes"
echo '[{"prompt_en": "a <i>heron</i> & \"a lake\""}]' > "$dir/list.json"
"$t3v" "${base[@]}" --steps 1 --prompts "$dir/list.json" --variant plan=full --variant plan=$t3 --variant name=int8,plan=full,act=int8 \
    -o "$dir/own" > /dev/null
[ "$(grep -c '"act": *"int8"' "$dir/own/compare.json")" = 1 ] && [ "$(grep -c '"act": *"float"' "$dir/own/compare.json")" = 2 ]
[ "$(value own vtc_s 0)" = null ] && holds "$(value own psnr 1) > 5"
! grep -q '<i>heron' "$dir/own/index.html"
grep -q 'a &lt;i&gt;heron&lt;/i&gt; &amp; &quot;a lake&quot;' "$dir/own/index.html"
[ "$(value own density 0)" = null ]

echo "# of a plan that chooses its keys, what met is that of t3v generate"
carve=rainfusion2:block=4,window=2,sparsity=0.9,dense=0
echo '[{"prompt_en": "a heron"}]' > "$dir/one.json"
"$t3v" "${base[@]}" --steps 2 --prompts "$dir/one.json" --variant plan=full --variant plan=$carve -o "$dir/met" > /dev/null
"$t3v" generate --quiet --model $model --size 64x64 --frames 5 --cfg 3 --steps 2 --plan $carve --prompt "a heron" --json -o "$dir/met.y4m" > "$dir/met.json"
near "$(value met density 1)" "$(other met.json density)"
holds "$(value met density 1) > 0 && $(value met density 1) < 1"

echo "# requests that cannot be met: exit status and words; nothing is written"
ask=("${base[@]}" --count 1 --steps 1 -o "$dir/bad")
full=(--variant plan=full)
bad 2 "at least two --variant" "${ask[@]}"
bad 2 "1 variant: expected at least two" "${ask[@]}" "${full[@]}"
bad 2 'two variants are named "full"' "${ask[@]}" "${full[@]}" "${full[@]}"
bad 2 'variant "x": plan, column 1: .*nonsense' "${ask[@]}" "${full[@]}" --variant name=x,plan=nonsense
bad 2 'variant "x": plan, column 4: ' "${ask[@]}" "${full[@]}" --variant name=x,plan=t3:blcks=1
bad 1 'variant "x".*no-such.safetensors' "${ask[@]}" "${full[@]}" --variant "name=x,lora=$dir/no-such.safetensors"
bad 2 'variant "x".*expected a model directory' "${ask[@]}" "${full[@]}" --variant "name=x,model=$dir/nowhere"
bad 2 "column 1: expected name=, plan=" "${ask[@]}" "${full[@]}" --variant nonsense
bad 2 "column 8: plan is empty" "${ask[@]}" "${full[@]}" --variant name=x,plan=
bad 2 "act=int4, expected float, int8 or fp8" "${ask[@]}" "${full[@]}" --variant name=x,act=int4
bad 2 "column 8: a second name" "${ask[@]}" "${full[@]}" --variant name=x,name=y
bad 2 "it needs a name" "${ask[@]}" "${full[@]}" --variant model=$model
bad 2 "not UTF-8" "${ask[@]}" "${full[@]}" --variant $'name=\xff,plan=full'
bad 2 "control character" "${ask[@]}" "${full[@]}" --variant $'name=a\nb,plan=full'
bad 2 "give one of --count and --prompts" compare --model $model "${full[@]}" --variant name=b -o "$dir/bad"
bad 2 "the nearest is 9" compare --model $model --frames 8 --count 1 "${full[@]}" --variant name=b,plan=full -o "$dir/bad"
bad 2 "has no model" compare --count 1 "${full[@]}" --variant name=b -o "$dir/bad"
bad 2 "no border lies inside" "${ask[@]}" "${full[@]}" --variant name=b,plan=full --tile 64x64
bad 2 "give --size and --frames" compare --count 1 --variant name=a,model=$model --variant "name=b,model=models/starter" -o "$dir/bad"
[ ! -e "$dir/bad" ]
mkdir "$dir/alone"
cp "$t3v" "$dir/alone/t3v"
rc=0; "$dir/alone/t3v" "${ask[@]}" "${full[@]}" --variant name=b,plan=full > "$dir/out" 2> "$dir/err" || rc=$?
[ $rc = 0 ] || { [ $rc = 1 ] && grep -q "h264 in mp4.*libt3v-av.so" "$dir/err"; } # 0: a module is installed
"$t3v" compare --help | grep -q -- '--variant name=tuned,plan=t3'
echo ok
