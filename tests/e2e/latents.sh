#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# t3v data latents: equal to encode and text; the same bytes with 1 and 2 threads and after kill -9; what cannot be used is
# named, other settings are refused; clips, crops and rates as documented.
set -euo pipefail
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'echo "line $LINENO: $BASH_COMMAND"' ERR
fails() { # STATUS TEXT command...: it exits with that status and says that text
    local want=$1 text=$2 got=0
    shift 2
    "$@" >"$dir/said" 2>&1 || got=$?
    test "$got" = "$want" || { echo "exit $got, expected $want: $*"; cat "$dir/said"; exit 1; }
    grep -q -- "$text" "$dir/said" || { echo "'$text' was not said: $*"; cat "$dir/said"; exit 1; }
}
says() { grep -q -- "$1" "$dir/said" || { echo "'$1' was not said"; cat "$dir/said"; exit 1; }; }
number() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"; }
meta() { # FILE KEY
    /usr/bin/python3 - "$@" <<'PY'
import json, struct, sys
f = open(sys.argv[1], 'rb')
print(json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))['__metadata__'][sys.argv[2]])
PY
}

"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 3 \
    --tokenizer tests/golden/wan/tiny/google/umt5-xxl/spiece.model -o "$dir/model" >/dev/null
"$t3v" data synth -q --count 3 --seed 5 --size 112x80 --frames 11 --format y4m -o "$dir/v"
latents() { "$t3v" data latents --model "$dir/model" --size 64x80 --frames 5 "$@"; }

# One clip against encode of the same pixels, and text of the same caption.
latents -q --videos "$dir/v" --start first --threads 1 -o "$dir/one" --json >"$dir/result"
test "$(number clips <"$dir/result") $(number made <"$dir/result") $(number kept <"$dir/result")" = "3 3 0"
/usr/bin/python3 - "$dir" <<'PY'
import sys
src = open(sys.argv[1] + '/v/clip_000001.y4m', 'rb').read()
head, rest = src.split(b'\n', 1)
w, h, x0, keep = 112, 80, 24, 64
assert b'W112' in head and b'H80' in head and b'C444' in head, head
with open(sys.argv[1] + '/cut.y4m', 'wb') as o:
    o.write(head.replace(b'W112', b'W64') + b'\n')
    for f in range(5):
        frame, rest = rest.split(b'\n', 1)
        o.write(frame + b'\n')
        for row in range(3 * h): o.write(rest[row * w + x0:row * w + x0 + keep])
        rest = rest[3 * h * w:]
PY
"$t3v" encode -q --model "$dir/model" -i "$dir/cut.y4m" -o "$dir/encoded.safetensors"
caption=$(meta "$dir/one/clips/clip_000001.y4m.safetensors" caption)
"$t3v" text -q --model "$dir/model" --prompt "$caption" -o "$dir/text.safetensors"
"$t3v" text -q --model "$dir/model" --prompt "" -o "$dir/none.safetensors"
/usr/bin/python3 - "$dir" <<'PY'
import array, json, struct, sys
def read(path, name, kind, dtype):
    with open(sys.argv[1] + '/' + path, 'rb') as f:
        n = struct.unpack('<Q', f.read(8))[0]
        e = json.loads(f.read(n))[name]
        assert e['dtype'] == dtype, e
        f.seek(8 + n + e['data_offsets'][0])
        a = array.array(kind); a.frombytes(f.read(e['data_offsets'][1] - e['data_offsets'][0]))
        return e['shape'], a
shape, have = read('one/clips/clip_000001.y4m.safetensors', 'latent', 'H', 'BF16')
_, want = read('encoded.safetensors', 'latent', 'I', 'F32')
assert shape == [16, 2, 10, 8], shape
assert len(have) == len(want) and all(h == (b + 0x7fff + (b >> 16 & 1)) >> 16 for h, b in zip(have, want))
assert len(set(have)) > 100
for a, b in (('one/clips/clip_000001.y4m.safetensors', 'text.safetensors'), ('one/empty.safetensors', 'none.safetensors')):
    assert read(a, 'context', 'I', 'F32') == read(b, 'context', 'I', 'F32'), a
PY
latents -q --videos "$dir/v" --start first --threads 2 -o "$dir/two" >/dev/null
diff -r "$dir/one" "$dir/two"

# Sidecar texts; what cannot be used is skipped by name, sizes may be mixed.
mkdir "$dir/m"
cp "$dir/v/clip_000000.y4m" "$dir/m/a.y4m"
"$t3v" data synth -q --count 1 --size 48x32 --frames 6 --format y4m -o "$dir/small"
cp "$dir/small/clip_000000.y4m" "$dir/m/b.y4m"
cp "$dir/m/a.y4m" "$dir/m/lonely.y4m"
head -c 3000 "$t3v" >"$dir/m/broken.mp4"
head -c 60000 "$dir/m/a.y4m" >"$dir/m/cut.y4m"
head -c 100000 "$dir/m/a.y4m" >"$dir/m/short.y4m"
/usr/bin/python3 - "$dir/m/short.y4m" <<'PY'
import sys
d = open(sys.argv[1], 'rb').read()
i = [k for k in range(len(d)) if d[k:k + 6] == b'FRAME\n']
open(sys.argv[1], 'wb').write(d[:i[-1]])
PY
cp "$dir/m/a.y4m" "$dir/m/blank.y4m"
for name in a b broken cut short; do echo "a clip called $name" >"$dir/m/$name.txt"; done
echo >"$dir/m/blank.txt"
echo "nothing to see" >"$dir/m/orphan.txt"
latents --videos "$dir/m" -o "$dir/mixed" --json >"$dir/result" 2>"$dir/said"
test "$(number clips <"$dir/result") $(number skipped <"$dir/result")" = "2 4"
test "$(number without_caption <"$dir/result") $(number without_video <"$dir/result")" = "1 1"
for text in "skipped broken.mp4: " "skipped cut.y4m: " "skipped short.y4m: .* 3 frames" "skipped blank.y4m: .*blank.txt is empty" \
    "no caption for lonely.y4m" "no video for orphan.txt"; do says "$text"; done
for word in '"source": "broken.mp4"' '"lonely.y4m"' '"orphan.txt"' '"caption": "a clip called b"'; do
    grep -q "$word" "$dir/mixed/index.json"
done
test "$(meta "$dir/mixed/clips/b.y4m.safetensors" source_size)" = 48x32
rm "$dir"/m/[ab].y4m
fails 1 "no clip could be made: 4 videos skipped" latents --videos "$dir/m" -o "$dir/nothing"

# A run that is killed goes on; what is there stays.
"$t3v" data synth -q --count 24 --seed 8 --size 80x80 --frames 9 --format y4m -o "$dir/w"
latents -q --videos "$dir/w" -o "$dir/whole" >/dev/null
mv "$dir/w/clip_000010.y4m" "$dir/aside"
mkfifo "$dir/w/clip_000010.y4m" # it waits here for a writer until it is killed
"$t3v" data latents --model "$dir/model" --size 64x80 --frames 5 -q --videos "$dir/w" -o "$dir/killed" >/dev/null &
pid=$! # of t3v itself: a function in the background would be a shell, and what it runs would live on
for _ in $(seq 3000); do
    test ! -e "$dir/killed/clips/clip_000009.y4m.safetensors" || break
    sleep 0.02
done
kill -9 $pid
wait $pid 2>/dev/null || true
mv "$dir/aside" "$dir/w/clip_000010.y4m"
test ! -e "$dir/killed/index.json"
rm -f "$dir"/killed/clips/.*.tmp
touch -d 2001-01-01 "$dir/killed/clips/clip_000001.y4m.safetensors"
latents -q --videos "$dir/w" -o "$dir/killed" --json >"$dir/result"
test "$(number clips <"$dir/result")" = 24
test "$(number kept <"$dir/result")" = 10
test "$(date -r "$dir/killed/clips/clip_000001.y4m.safetensors" +%Y)" = 2001
diff -r "$dir/whole" "$dir/killed"
# Another caption: that clip alone is made again. Other settings: refused, nothing changes.
sed -i '0,/"prompt_en": "/s//"prompt_en": "Look: /' "$dir/w/captions.json"
latents -q --videos "$dir/w" -o "$dir/killed" --json >"$dir/result"
test "$(number made <"$dir/result") $(number kept <"$dir/result")" = "1 23"
cp -r "$dir/killed" "$dir/before"
fails 2 "was made with frames '5', this run has '9'" latents --videos "$dir/w" --frames 9 -o "$dir/killed"
fails 2 "was made with start 'random, seed 0', this run has 'random, seed 1'" latents --videos "$dir/w" --seed 1 -o "$dir/killed"
"$t3v" init -q --config tiny --parts dit,vae,text,tokenizer --seed 4 \
    --tokenizer tests/golden/wan/tiny/google/umt5-xxl/spiece.model -o "$dir/other" >/dev/null
fails 2 "was made with model '" latents --model "$dir/other" --videos "$dir/w" -o "$dir/killed"
diff -r "$dir/before" "$dir/killed"

# Three shares of seven first frames, a folder below, CSV; every second frame; a rate.
mkdir "$dir/v/sub"
mv "$dir/v/clip_000002.y4m" "$dir/v/sub/x.y4m"
printf 'file,caption\nclip_000000.y4m,"one, two"\nsub/x.y4m,three\n' >"$dir/c.csv"
latents -q --videos "$dir/v" --captions "$dir/c.csv" --crops 3 --seed 7 -o "$dir/crops" --json >"$dir/result"
test "$(number clips <"$dir/result") $(number without_caption <"$dir/result")" = "6 1"
for name in clip_000000.y4m sub%2Fx.y4m; do
    first=$(meta "$dir/crops/clips/$name.safetensors" first_frame)
    second=$(meta "$dir/crops/clips/$name@1.safetensors" first_frame)
    third=$(meta "$dir/crops/clips/$name@2.safetensors" first_frame)
    test "$first" -lt 2 -a "$second" -ge 2 -a "$second" -lt 4 -a "$third" -ge 4 -a "$third" -lt 7
done
test "$(meta "$dir/crops/clips/clip_000000.y4m.safetensors" caption)" = "one, two"
latents -q --videos "$dir/v" --captions "$dir/c.csv" --every 2 --start first -o "$dir/every" >/dev/null
latents -q --videos "$dir/v" --captions "$dir/c.csv" --fps 8 --start first -o "$dir/rate" >/dev/null
test "$(meta "$dir/rate/clips/clip_000000.y4m.safetensors" frame_step)" = 2
for name in clip_000000.y4m sub%2Fx.y4m; do # the same frames: the same numbers, but for the settings
    "${T3V_BUILD:-build}/tests/compare_tensors" "$dir/every/clips/$name.safetensors" latent "$dir/rate/clips/$name.safetensors" latent 0
done
fails 1 "16 frames a second, --fps asks for 20" latents --videos "$dir/v" --captions "$dir/c.csv" --fps 20 -o "$dir/fast"
fails 1 "skipped clip_000000.y4m: .* 11 frames, a clip takes 13" latents --videos "$dir/v" --every 3 -o "$dir/long"

# Wrong use.
fails 2 "multiples of 16" latents --videos "$dir/v" --size 60x64 -o "$dir/x"
fails 2 "the nearest is 5" latents --videos "$dir/v" --frames 6 -o "$dir/x"
fails 2 "either --fps or --every" latents --videos "$dir/v" --fps 8 --every 2 -o "$dir/x"
fails 2 "--held-out is not an option of latents" latents --videos "$dir/v" --held-out -o "$dir/x"
fails 2 "--videos is not an option of synth" "$t3v" data synth --videos "$dir/v" -o "$dir/x"
fails 1 "no such folder" latents --videos "$dir/nowhere" -o "$dir/x"
echo 'file;caption' >"$dir/bad.csv"
fails 1 "line 1: expected the names of columns" latents --videos "$dir/v" --captions "$dir/bad.csv" -o "$dir/x"
test ! -e "$dir/x"

# Real clips.
data=${T3V_DATA:-../shared/data}
if [ -e "$data/bbb_1080p_120f.mp4" ] && [ -e "$(dirname "$t3v")/libt3v-av.so" ]; then
    cat >"$dir/real.jsonl" <<'END'
{"file": "bbb_180p_300f.webm", "caption": "A large grey rabbit in a green meadow, animated film."}
{"file": "nasa_cleanroom_270p_390f.mp4", "caption": "Engineers in white suits work on a telescope in a clean room."}
{"file": "bbb_1080p_120f.mp4", "caption": "A rabbit under trees, animated film."}
END
    latents -q --videos "$data" --captions "$dir/real.jsonl" --size 96x64 --fps 24 --start first -o "$dir/real" --json >"$dir/result"
    test "$(number clips <"$dir/result") $(number without_caption <"$dir/result")" = "3 1"
    test "$(meta "$dir/real/clips/bbb_1080p_120f.mp4.safetensors" source_size)" = 1920x1080
    test "$(meta "$dir/real/clips/bbb_1080p_120f.mp4.safetensors" frame_step)" = 2.5
else
    echo "SKIPPED: no clips in $data (set T3V_DATA), or no libav"
fi
echo "latents: ok"
