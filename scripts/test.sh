#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of BUILD_DIR. usage: scripts/test.sh BUILD_DIR [ctest options]
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: scripts/test.sh BUILD_DIR [ctest options]" >&2; exit 2; }
build=$1
shift
exec ctest --test-dir "$build" --output-on-failure -j2 "$@"
