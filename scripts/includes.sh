#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks that includes inside src/ go one way. A new folder gets one row here: what it may include.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A may=(
    [base]=""
    [tensor]="base"
    [cuda]="base tensor ops"
    [dist]="base tensor"
    [ops]="base tensor cuda"
    [attn]="base tensor ops cuda dist"
    [io]="base tensor"
    [video]="base tensor io"
    [sched]="base tensor"
    [eval]="base tensor io video"
    [data]="base tensor io video eval"
    [text]="base tensor cuda ops attn io"
    [dit]="base tensor cuda ops attn io"
    [vae]="base tensor cuda ops attn io"
    [clip]="base tensor ops io"
    [pipe]="base tensor ops attn io video sched text dit vae clip dist cuda"
    [train]="base tensor ops attn io video sched text dit vae dist cuda pipe eval data"
)
bad=0
while IFS=: read -r file line include; do
    from=${file#src/}
    from=${from%%/*}
    to=${include#*\"}
    to=${to%%/*}
    if [ -z "${may[$from]+known}" ]; then
        echo "$file: folder '$from' has no row in scripts/includes.sh"
        bad=$((bad + 1))
    elif [ "$to" != "$from" ] && [ "$to" != t3v ] && [[ " ${may[$from]} " != *" $to "* ]]; then
        echo "$file:$line: $from may not include $to (it may:${may[$from]:+ }${may[$from]})"
        bad=$((bad + 1))
    fi
done < <(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"[^"]+/' src --include='*.c' --include='*.h' \
    --include='*.cc' --include='*.inc' --include='*.cu' | sed -E 's/^([^:]*:[0-9]+:)[^"]*("[^"]*").*/\1\2/')
while IFS=: read -r file line include; do
    echo "$file:$line: a public header includes only public headers"
    bad=$((bad + 1))
done < <(grep -rnE '#[[:space:]]*include[[:space:]]*"' include | grep -v '"t3v/' || true)
[ "$bad" -eq 0 ] || { echo "includes: $bad wrong"; exit 1; }
