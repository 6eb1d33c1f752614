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

SIZE = {'F32': 4, 'BF16': 2, 'U8': 1, 'F8_E4M3': 1}
def write(name, tensors):
    at, header = 0, {}
    for key, dtype, *shape in tensors:
        n = SIZE[dtype]
        for s in shape: n *= s
        header[key] = {'dtype': dtype, 'shape': shape, 'data_offsets': [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    with open(f'{sys.argv[1]}/{name}.safetensors', 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        f.truncate(8 + len(text) + at)
# Attention of 27 GB by the names that are joined into one matrix; words on a weight's type of 28 GB.
write('clip', [('vision_model.embeddings.patch_embedding.weight', 'F32', 16, 3, 2, 2), ('vision_model.pre_layrnorm.weight', 'F32', 16)] +
      [(f'vision_model.encoder.layers.0.self_attn.{x}_proj.weight', 'BF16', 1 << 16, 75000) for x in 'qkv'])
write('words', [('a.weight', 'F8_E4M3', 2), ('a.comfy_quant', 'U8', 28 << 30)])
write('many', [(f'w.{i}', 'U8', 0) for i in range(65537)])
# Sizes that belong to no model, of tensors without a byte.
text = [('token_embedding.weight', 'F32', 400, 8), ('blocks.0.attn.q.weight', 'F32', 8, 8), ('blocks.0.norm1.weight', 'F32', 8),
        ('blocks.0.ffn.fc1.weight', 'F32', 8, 8)]
write('heads', text + [('blocks.0.pos_embedding.embedding.weight', 'F32', 32, 0)])
write('buckets', text + [('blocks.0.pos_embedding.embedding.weight', 'F32', 600, 2)])
write('inner', [t if t[0] != 'blocks.0.attn.q.weight' else (t[0], 'F32', 1 << 62, 0) for t in text] +
      [('blocks.0.pos_embedding.embedding.weight', 'F32', 32, 2)])
dit = [('patch_embedding.weight', 'F32', 16, 16, 1, 2, 2), ('patch_embedding.bias', 'F32', 16)]
write('columns', dit + [('blocks.0.self_attn.q.weight', 'F32', 4, 0)])
write('lora', [('blocks.0.self_attn.q.lora_A.weight', 'F32', 2, 0), ('blocks.0.self_attn.q.lora_B.weight', 'F32', 4, 2)])
PY
within 1 50 0 '700 tensors\|tensors *700' "$t3v" inspect "$dir/good.safetensors"
within 1 50 1 'truncated or damaged' "$t3v" inspect "$dir/short.safetensors"
within 1 50 1 'the header length is' "$t3v" inspect "$dir/liar.safetensors"
within 1 50 1 'not a safetensors file' "$t3v" inspect "$dir/zeros.safetensors"
within 1 50 1 'zip.pth' "$t3v" inspect "$dir/zip.pth"
within 1 50 0 'kind clip' "$t3v" inspect "$dir/clip.safetensors"
within 1 50 1 'comfy_quant' "$t3v" inspect "$dir/words.safetensors"
within 1 150 1 'more than 65536 tensors' "$t3v" inspect "$dir/many.safetensors"

echo "# sizes that no model has"
text=(text --model $golden/tiny --prompt x -o "$dir/text.safetensors")
within 1 300 1 '0 heads' "$t3v" "${text[@]}" --text-encoder "$dir/heads.safetensors"
within 1 300 1 '600 buckets' "$t3v" "${text[@]}" --text-encoder "$dir/buckets.safetensors"
within 1 300 1 'inner columns' "$t3v" "${text[@]}" --text-encoder "$dir/inner.safetensors"
mkdir "$dir/folder"
cp $golden/tiny/config.json $golden/tiny/diffusion_pytorch_model.safetensors "$dir/folder"
cp "$dir/heads.safetensors" "$dir/folder"
within 1 300 1 '0 heads' "$t3v" convert --format diffusers "$dir/folder" -o "$dir/folder.out"
within 1 300 0 'columns.out' "$t3v" convert --dtype bf16 --lora "$dir/lora.safetensors" "$dir/columns.safetensors" -o "$dir/columns.out.safetensors"

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
