#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Files and requests that are larger than they look, or change while they are used: an error or a result, in little time and
# memory; never a crash, and never a video of what was half a file.
set -euo pipefail
t3v=$1
measure=${T3V_BUILD:?}/tests/measure
golden=tests/golden/wan
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
more=1 # sanitizers take more of both
grep -q __asan_init "$t3v" && more=8

within() { # SECONDS MIB STATUS WORDS command...
    local seconds=$1 mib=$2 want=$3 words=$4 rc=0
    shift 4
    "$measure" $((seconds * more)) $((mib * more)) "$@" > "$dir/said" 2>&1 || rc=$?
    [ $rc = "$want" ] || { echo "exit $rc, expected $want: $(echo "$*" | head -c 300)"; tail -n 5 "$dir/said"; exit 1; }
    grep -q -- "$words" "$dir/said" || { echo "'$words' was not said: $(echo "$*" | head -c 300)"; head -c 2000 "$dir/said"; exit 1; }
}

echo "# 28 GB of holes behind a header, or behind none"
/usr/bin/python3 - "$dir" <<'PY'
import json, struct, sys
at, header = 0, {}
for i in range(700):
    header[f'blocks.{i}.w'] = {'dtype': 'BF16', 'shape': [4096, 4883], 'data_offsets': [at, at + 2 * 4096 * 4883]}
    at += 2 * 4096 * 4883
text = json.dumps(header).encode()
for name, size in ('good', at), ('short', at - 1):
    with open(f'{sys.argv[1]}/{name}.safetensors', 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        f.truncate(8 + len(text) + size)
with open(sys.argv[1] + '/liar.safetensors', 'wb') as f:
    f.write(struct.pack('<Q', 28 << 30) + b'{"a":')
    f.truncate(28 << 30)
with open(sys.argv[1] + '/zeros.safetensors', 'wb') as f: f.truncate(28 << 30)
with open(sys.argv[1] + '/zip.pth', 'wb') as f:
    f.write(b'PK\3\4')
    f.truncate(28 << 30)
PY
within 1 50 0 '700 tensors\|tensors *700' "$t3v" inspect "$dir/good.safetensors"
within 1 50 1 'truncated or damaged' "$t3v" inspect "$dir/short.safetensors"
within 1 50 1 'the header length is' "$t3v" inspect "$dir/liar.safetensors"
within 1 50 1 'not a safetensors file' "$t3v" inspect "$dir/zeros.safetensors"
within 1 50 1 'zip.pth' "$t3v" inspect "$dir/zip.pth"

echo "# a million prompts; one more is refused"
awk 'BEGIN { printf "["; for (i = 0; i < 1000000; i++) printf "%s{\"prompt_en\":\"p\",\"data_file\":\"\"}", i ? "," : ""; printf "]" }' > "$dir/list.json"
base=(generate --model $golden/tiny --size 32x32 --frames 1 --steps 1 --cfg 1 --threads 2)
within 20 1200 0 'each of 1000000 clips\|passes' "$t3v" "${base[@]}" --prompts "$dir/list.json" --out-dir "$dir/set" --dry-run
sed -i 's/]$/,{"prompt_en":"p"}]/' "$dir/list.json"
within 20 1200 1 'at most 1000000' "$t3v" "${base[@]}" --prompts "$dir/list.json" --out-dir "$dir/set" --dry-run

echo "# plans"
within 1 50 1 'more than 4 GiB' "$t3v" plan --plan t3 --grid 2000,1000,1000
head -c 60000 /dev/zero | tr '\0' ' ' > "$dir/plan"
echo 'full' >> "$dir/plan"
within 1 50 0 'full' "$t3v" plan --plan "@$dir/plan" --grid 2,2,2
head -c 70000 /dev/zero | tr '\0' ';' > "$dir/plan"
within 1 50 1 'at most 65535\|more than 65535' "$t3v" plan --plan "@$dir/plan" --grid 2,2,2

echo "# JSON as deep as its file is long"
cp -r $golden/tiny "$dir/model"
head -c 1000000 /dev/zero | tr '\0' '[' > "$dir/model/t3v.json"
within 1 50 1 'depth\|object' "$t3v" plan --model "$dir/model" --grid 2,2,2
rm "$dir/model/t3v.json"

echo "# prompts of 60 kB: cut with a warning; a state of another one is refused although they begin alike"
long=$(head -c 60000 /dev/zero | tr "\0" a)
within 5 300 2 'codec' "$t3v" "${base[@]}" --prompt "$long b" --codec none -o "$dir/long.png"
grep -q 'it is cut before' "$dir/said"
[ -e "$dir/long.png.t3v-state" ] && [ ! -e "$dir/long.png" ]
within 5 300 2 'other settings' "$t3v" "${base[@]}" --prompt "$long c" --resume -o "$dir/long.png"
within 5 300 0 'resuming' "$t3v" "${base[@]}" --prompt "$long b" --resume -o "$dir/long.png"

echo "# weights that are written to, or cut, while they are used"
weights=$dir/model/diffusion_pytorch_model.safetensors
for how in written cut; do
    cp $golden/tiny/diffusion_pytorch_model.safetensors "$weights"
    rm -f "$dir"/clip.y4m*
    "$t3v" generate --model "$dir/model" --size 64x64 --frames 5 --steps 400 --sampler euler --cfg 5 --prompt x --save-every 0 \
        -o "$dir/clip.y4m" > "$dir/said" 2>&1 &
    pid=$!
    for _ in $(seq 1000); do [ -e "$dir/clip.y4m.t3v-state" ] && break; sleep 0.01; done
    kill -0 $pid || { tail -n 3 "$dir/said"; exit 1; }
    if [ $how = cut ]; then truncate -s 5000 "$weights"; else printf '\1' | dd of="$weights" bs=1 seek=500000 conv=notrunc status=none; fi
    rc=0
    wait $pid || rc=$?
    [ $rc = 1 ] && grep -q 'was changed while it was read\|became shorter' "$dir/said" || { echo "$how: exit $rc"; tail -n 3 "$dir/said"; exit 1; }
    [ ! -e "$dir/clip.y4m" ]
done
