#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Configures BUILD_DIR where that is needed and builds it; prints little unless something fails.
# usage: scripts/build.sh BUILD_DIR [cmake options]
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: scripts/build.sh BUILD_DIR [cmake options]" >&2; exit 2; }
cd "$(dirname "$0")/.."
build=$1
shift
mkdir -p "$build"
if [ ! -f "$build/build.ninja" ] || [ $# -gt 0 ]; then
    if ! cmake -G Ninja -B "$build" "$@" . >"$build/configure.log" 2>&1; then
        cat "$build/configure.log" >&2
        echo "build: configuring $build failed" >&2
        exit 1
    fi
fi
if ! ninja -C "$build" -j "${T3V_JOBS:-$(nproc)}" >"$build/build.log" 2>&1; then
    grep -v '^ninja: \|^\[[0-9]*/[0-9]*\] [A-Z]' "$build/build.log" | head -n 60 >&2
    echo "build: failed; all of it is in $build/build.log" >&2
    exit 1
fi
grep -q 'warning:' "$build/build.log" && grep 'warning:' "$build/build.log" >&2
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }
av="libav $(cached LIBAV_libavformat_VERSION)"
[ -n "$(cached LIBAV_FOUND)" ] || av="no libav: y4m and PNG only"
gpu=
if [ -e "$build/libt3v-cuda.so" ]; then gpu=", CUDA module"; fi
echo "built $build/t3v (video files: $av$gpu)"
