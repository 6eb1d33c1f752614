#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Seconds of a training step, t3v tune beside PyTorch (bench/train_torch.py): the same model, clips' size, batch, threads;
# full attention, all weights, AdamW. Rounds of the one and the other in turn; one JSON line a measurement, then the ratio
# of medians. A quiet machine. Debian's PyTorch takes the system's libblas for f32 products: without libopenblas0-pthread
# that is the reference one, which makes it a hundred times slower and the comparison worthless.
#
#   bench/train_speed.sh [MODEL...]      default: the tiny model of the tests, models/starter-128
# environment: T3V (build/t3v), PYTHON (/usr/bin/python3), THREADS (2), ROUNDS (3), SIZE (128x128), BATCH (8)
set -euo pipefail
cd "$(dirname "$0")/.."
t3v=${T3V:-build/t3v} python=${PYTHON:-/usr/bin/python3} threads=${THREADS:-2} rounds=${ROUNDS:-3}
size=${SIZE:-128x128} batch=${BATCH:-8}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
readlink -f /usr/lib/*/libblas.so.3 | grep -q openblas || { echo "train_speed: libblas is not OpenBLAS: apt-get install libopenblas0-pthread" >&2; exit 2; }
[ $# -gt 0 ] || set -- tests/golden/wan/tiny models/starter-128
median() { sort -g | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

for model in "$@"; do
    rm -rf "$dir"/*
    "$t3v" data synth --quiet --count 8 --size "$size" --frames 17 --format y4m -o "$dir/videos"
    "$t3v" data latents --quiet --model "$model" --videos "$dir/videos" --size "$size" --frames 17 -o "$dir/data" > /dev/null
    dim=$(sed -n 's/.*"dim": *\([0-9]*\).*/\1/p' "$dir/data/index.json" | head -n 1)
    echo "{\"model\":\"$model\",\"steps\":6,\"batch\":$batch,\"lr\":1e-5}" > "$dir/tune.json"
    for _ in $(seq "$rounds"); do
        for precision in f32 bf16; do
            rm -rf "$dir/run"
            "$t3v" tune --quiet --precision $precision --threads "$threads" --config "$dir/tune.json" --data "$dir/data" -o "$dir/run"
            s=$(sed -n 's/.*"seconds":\([0-9.e+-]*\).*/\1/p' "$dir/run/log.jsonl" | tail -n +2 | median)
            echo "{\"what\":\"t3v\",\"model\":\"$model\",\"type\":\"$precision\",\"size\":\"$size\",\"batch\":$batch,\"threads\":$threads,\"seconds_a_step\":$s}"
            flags=()
            [ $precision = f32 ] || flags=(--bf16)
            "$python" bench/train_torch.py --model "$model" --size "$size" --batch "$batch" --threads "$threads" --text-dim "$dim" "${flags[@]}"
        done
    done | tee "$dir/lines"
    best() { # PROGRAM: the faster type's median
        for type in f32 bf16; do
            grep "\"what\": *\"$1\"" "$dir/lines" | grep "\"type\": *\"$type\"" | sed 's/.*"seconds_a_step": *\([0-9.e+-]*\).*/\1/' | median
        done | sort -g | head -n 1
    }
    awk "BEGIN { printf \"{\\\"model\\\":\\\"$model\\\",\\\"t3v\\\":%g,\\\"torch\\\":%g,\\\"ratio\\\":%.2f}\\n\", $(best t3v), $(best torch), $(best torch) / $(best t3v) }"
done
