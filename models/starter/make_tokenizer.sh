#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Trains the starter's tokenizer on 20,000 captions; the same bytes every time with the same spm_train.
# usage: models/starter/make_tokenizer.sh [path of t3v]      (needs spm_train: Debian's package sentencepiece)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
t3v=${1:-$here/../../build/t3v}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$t3v" data synth --count 20000 --seed 0 --captions-only "$dir/captions.txt"
# A word becomes a piece only if it occurs in two surroundings: every word once more, with a full stop.
tr -cs 'A-Za-z' '\n' <"$dir/captions.txt" | LC_ALL=C sort -u | sed '/./s/$/./' >"$dir/words.txt"
# Ids as in umT5: pad 0, end 1, begin 2, unknown 3. Bytes stand in for what captions never contain. The names go into
# the model, so they are relative.
(cd "$dir" && spm_train --input=captions.txt,words.txt --model_prefix=spiece --model_type=unigram --vocab_size=512 \
    --hard_vocab_limit=false --byte_fallback --character_coverage=1.0 --pad_id=0 --eos_id=1 --bos_id=2 --unk_id=3 \
    --normalization_rule_name=nmt_nfkc --num_threads=1 --minloglevel=1)
mkdir -p "$here/google/umt5-xxl"
mv "$dir/spiece.model" "$here/google/umt5-xxl/spiece.model"
