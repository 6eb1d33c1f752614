#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages of the named sets (run, test, fixtures) that are missing; silent when none is.
set -euo pipefail

run="make cmake ninja-build gcc g++ pkg-config libdnnl-dev libjansson-dev libpng-dev zlib1g-dev
     libavformat-dev libavcodec-dev libswscale-dev libavutil-dev libsentencepiece-dev libutf8proc-dev"
test="libcmocka-dev ffmpeg clang clang-format libclang-rt-dev libomp-dev chromium"
fixtures="python3-torch python3-numpy python3-sentencepiece sentencepiece"

[ $# -gt 0 ] || { echo "usage: scripts/deps.sh SET... (SET: run, test, fixtures)" >&2; exit 2; }
wanted=
for set in "$@"; do
    case $set in
        run | test | fixtures) wanted+=" ${!set}" ;;
        *) echo "deps: unknown set '$set' (sets: run, test, fixtures)" >&2; exit 2 ;;
    esac
done

if ! command -v dpkg-query >/dev/null; then
    echo "deps: not a Debian system; needed (Debian names):" $wanted >&2
    exit 0
fi
# pkg-config is a virtual package in later releases: its provider counts.
installed=" $(dpkg-query -W -f='${db:Status-Status} ${Package} ${Provides}\n' |
    sed -n 's/^installed //p' | tr ',\n' '  ') "
missing=
for package in $wanted; do
    [[ $installed == *" $package "* ]] || missing+=" $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "deps: missing packages, and neither root nor sudo to install them. As root, run:" >&2
        echo "  apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
    as_root=sudo
fi
echo "deps: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing \
        >"$log" 2>&1
}
# Package lists may be absent or old: refresh them once and try again.
if ! install; then
    $as_root apt-get update -q >"$log" 2>&1 || { cat "$log" >&2; echo "deps: apt-get update failed" >&2; }
    install || { tail -n 20 "$log" >&2; echo "deps: could not install$missing" >&2; exit 1; }
fi
