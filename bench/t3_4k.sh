#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The 1.3B shape at true 4K (2176x3840, 81 frames, 685,440 tokens), random weights: each of T3's five layer types as a
# whole block, full attention of some queries (times 685,440 / queries: of all), one JSON line each; or a whole forward
# pass, about an hour on two cores with AVX512-BF16 (not known with AVX2), in bf16: f32 needs more than 22 GB. The pass can be stopped, also by MINUTES, and the same
# command goes on with it; its line has the seconds of all parts and the peak memory of the last.
#
#   bench/t3_4k.sh
#   bench/t3_4k.sh forward DIR [MINUTES]      environment: T3V (build/t3v), THREADS (2), QUERIES (2048)
set -euo pipefail
t3v=${T3V:-build/t3v} threads=${THREADS:-2}
if [ "${1:-}" != forward ]; then
    common=(--threads "$threads" --repeat 1 --json --quiet)
    clip=(--config wan2.1-t2v-1.3b --plan t3 --size 3840x2160 --frames 81)
    for layer in 0 1 2 3 4; do "$t3v" bench block "${clip[@]}" --layer $layer "${common[@]}"; done
    "$t3v" bench attention --plan full --grid 21,136,240 --queries "${QUERIES:-2048}" "${common[@]}"
    exit
fi
dir=${2:?DIR}
mkdir -p "$dir"
[ -e "$dir/model" ] || "$t3v" init --quiet --config wan2.1-t2v-1.3b --parts dit --seed 1 -o "$dir/model"
[ -e "$dir/in.safetensors" ] || python3 - "$dir/in.safetensors" << 'END'
import array, json, random, sys

random.seed(1)
some = array.array("f", (random.gauss(0, 1) for _ in range(1 << 20)))
head, data = {}, []
for name, shape in {"latent": (16, 21, 272, 480), "context": (40, 4096)}.items():
    n, at = 1, sum(map(len, data))
    for size in shape: n *= size
    data.append((some * (n // len(some) + 1))[:n].tobytes())
    head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * n]}
text = json.dumps(head).encode()
with open(sys.argv[1], "wb") as f:
    f.write(len(text).to_bytes(8, "little") + text)
    f.writelines(data)
END
start=$EPOCHREALTIME rc=0
limit=()
[ -z "${3:-}" ] || limit=(timeout --signal=INT $(($3 * 60)))
"${limit[@]}" "$t3v" dit --model "$dir/model" --plan t3 --latent "$dir/in.safetensors" --context "$dir/in.safetensors" --timestep 700 --precision bf16 \
    --threads "$threads" --resume --json -o "$dir/velocity.safetensors" > "$dir/said.json" || rc=$?
echo "$start $EPOCHREALTIME" >> "$dir/parts"
[ $rc = 0 ] || { echo "t3_4k: stopped; the same command goes on" >&2; exit $rc; }
awk '{ s += $2 - $1 } END { printf "{\"what\":\"forward\",\"seconds\":%.1f,\"parts\":%d,\"last\":", s, NR }' "$dir/parts"
sed 's/$/}/' "$dir/said.json"
