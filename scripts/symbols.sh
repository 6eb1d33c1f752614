#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Two objects of the library that define one name link silently, and the wrong function runs: there must be none.
# usage: scripts/symbols.sh BUILD_DIR
set -euo pipefail
[ $# = 1 ] || { echo "usage: scripts/symbols.sh BUILD_DIR" >&2; exit 2; }
symbols=$(nm -g --defined-only "$1/libt3v.a" | awk 'NF == 3 && $2 ~ /[TDBRC]/ { print $3 }')
twice=$(sort <<<"$symbols" | uniq -d)
[ -z "$twice" ] || { echo "defined twice in $1/libt3v.a:"; echo "$twice"; exit 1; }
# The C files' names have one prefix, so that they clash with nobody's. (C++ names are mangled.)
foreign=$(grep -v '^t3v_\|^_Z\|^.gomp_critical_user_t3v_' <<<"$symbols" || true)
[ -z "$foreign" ] || { echo "global without the prefix t3v_ in $1/libt3v.a:"; echo "$foreign"; exit 1; }
