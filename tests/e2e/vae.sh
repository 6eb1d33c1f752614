#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Encode and decode of the golden clip and of a video file; tiles, crops and wrong use.
set -euo pipefail
t3v=$1
golden=tests/golden/wan
tiny=$golden/tiny
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
close() { # A NAME B NAME LIMIT: relative L2 distance of two tensors
    /usr/bin/python3 - "$@" <<'PY'
import array, json, math, struct, sys
def read(path, name):
    with open(path, 'rb') as f:
        n = struct.unpack('<Q', f.read(8))[0]
        e = json.loads(f.read(n))[name]
        f.seek(8 + n + e['data_offsets'][0])
        assert e['dtype'] == 'F32', e
        a = array.array('f'); a.frombytes(f.read(e['data_offsets'][1] - e['data_offsets'][0]))
        return [d for d in e['shape'] if d != 1], a
(sa, a), (sb, b) = read(*sys.argv[1:3]), read(*sys.argv[3:5])
assert sa == sb, (sa, sb)
b = [min(1, max(-1, v)) for v in b] if sys.argv[4].endswith('decoded') else b
d = math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b))
assert d <= float(sys.argv[5]), f'{sys.argv[2]}: relative L2 {d:.3g}'
PY
}
fails() { # STATUS TEXT command...: it exits with that status and says that text
    local want=$1 text=$2 got=0
    shift 2
    "$@" >"$dir/said" 2>&1 || got=$?
    test "$got" = "$want" || { echo "exit $got, expected $want: $*"; cat "$dir/said"; exit 1; }
    grep -q -- "$text" "$dir/said" || { echo "'$text' was not said: $*"; cat "$dir/said"; exit 1; }
}

"$t3v" encode --model $tiny -i $golden/vae.safetensors -o "$dir/l.safetensors" --precision f32 --quiet
close "$dir/l.safetensors" latent $golden/vae.safetensors latent 1e-4
"$t3v" decode --model $tiny -i $golden/vae.safetensors -o "$dir/v.safetensors" --precision f32 --quiet
close "$dir/v.safetensors" video $golden/vae.safetensors decoded 1e-4
"$t3v" decode --model $tiny -i $golden/vae.safetensors -o "$dir/b.safetensors" --precision bf16 --quiet
close "$dir/b.safetensors" video $golden/vae.safetensors decoded 2e-2

# A video file.
"$t3v" data synth --count 1 --seed 2 --size 112x80 --frames 17 --format y4m -o "$dir/d" --quiet
clip=$(ls "$dir"/d/*.y4m)
"$t3v" encode --model $tiny -i "$clip" -o "$dir/c.safetensors" --quiet
"$t3v" decode --model $tiny -i "$dir/c.safetensors" -o "$dir/c.y4m" --fps 8 --quiet
head -1 "$dir/c.y4m" | grep -aq 'W112 H80 F8'
"$t3v" decode --model $tiny -i "$dir/c.safetensors" -o "$dir/t.y4m" --vae-tile 64x64 --quiet --json | grep -q '"tile":\[40,64\]'
# A limit that one tile passes is met with smaller ones; one that nothing fits is refused.
fails 1 "memory-limit" "$t3v" decode --model $tiny -i "$dir/c.safetensors" -o "$dir/x.y4m" --memory-limit 1M
test ! -e "$dir/x.y4m"
# 4n+1 frames and sizes.
/usr/bin/python3 - "$dir" <<'PY'
import sys
h, w, f = 70, 100, 6
with open(sys.argv[1] + '/odd.y4m', 'wb') as o:
    o.write(b'YUV4MPEG2 W%d H%d F8:1 C444\n' % (w, h))
    for i in range(f): o.write(b'FRAME\n' + bytes([40 * i] * (3 * w * h)))
PY
fails 2 "nearest is 5" "$t3v" encode --model $tiny -i "$dir/odd.y4m" -o "$dir/x.safetensors"
fails 2 "nearest is 96x64" "$t3v" encode --model $tiny -i "$dir/odd.y4m" -o "$dir/x.safetensors" --crop-frames
"$t3v" encode --model $tiny -i "$dir/odd.y4m" -o "$dir/o.safetensors" --crop-frames --crop-size --quiet --json |
    grep -q '"frames":5,"height":64,"width":96'
fails 1 "no tensor\|latent" "$t3v" decode --model $tiny -i "$dir/v.safetensors" -o "$dir/x.y4m" --quiet
fails 2 "vae-tile" "$t3v" decode --model $tiny -i "$dir/c.safetensors" -o "$dir/x.y4m" --vae-tile 1

# The Wan2.2 VAE: the file says what it is; 16 pixels a cell, odd tiles, a model of the other kind is refused.
"$t3v" init --config tiny-ti2v -o "$dir/m22" --quiet >"$dir/said"
"$t3v" data synth --count 1 --seed 2 --size 176x144 --frames 9 --format y4m -o "$dir/e" --quiet
clip=$(ls "$dir"/e/*.y4m)
"$t3v" encode --model "$dir/m22" -i "$clip" -o "$dir/e.safetensors" --quiet
grep -aq '"shape":\[48,3,9,11\]' "$dir/e.safetensors"
"$t3v" decode --model "$dir/m22" -i "$dir/e.safetensors" -o "$dir/e.y4m" --quiet --json --vae-tile 144x144 | grep -q '"height":144,"width":176,"tile":\[144,96\]'
head -1 "$dir/e.y4m" | grep -aq 'W176 H144 F24'
fails 1 "latents of 48 channels" "$t3v" decode --model $tiny --vae "$dir/m22/Wan2.2_VAE.pth" -i "$dir/e.safetensors" -o "$dir/x.y4m"
fails 2 "expected multiples of 16 (32 for the transformer), the nearest is 96x64" "$t3v" encode --model "$dir/m22" -i "$dir/odd.y4m" --crop-frames -o "$dir/x.safetensors"
"$t3v" inspect --json "$dir/m22/Wan2.2_VAE.pth" | grep -q '"latent_channels": *48'

# The image encoder: the first frame of anything, at any size.
"$t3v" init --config tiny-i2v -o "$dir/i2v" --quiet >"$dir/said"
weights=$(ls "$dir"/i2v/models_clip*.pth)
"$t3v" inspect --json "$weights" | grep -q '"kind": *"clip"'
"$t3v" encode --features --model "$dir/i2v" -i "$dir/odd.y4m" -o "$dir/f.safetensors" --quiet --json >"$dir/said"
grep -q '"rows":17,"width":32' "$dir/said"
grep -aq '"clip":{"dtype":"F32","shape":\[17,32\]' "$dir/f.safetensors"
mv "$weights" "$dir/elsewhere.pth"
fails 1 "image encoder is missing" "$t3v" encode --features --model "$dir/i2v" -i "$dir/odd.y4m" -o "$dir/x.safetensors"
"$t3v" encode --features --model "$dir/i2v" --clip "$dir/elsewhere.pth" -i "$dir/odd.y4m" -o "$dir/g.safetensors" --quiet >"$dir/said"
cmp "$dir/f.safetensors" "$dir/g.safetensors"
