#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The longer checks: formatting, includes, symbols, pages, headers, CPU masks, clang, sanitizers, fuzz smoke.
# usage: scripts/check.sh BUILD_DIR [STEP...]   (steps: format includes symbols docs headers masks clang cuda asan fuzz)
# T3V_FUZZ_SECONDS (default 30) is the time for each fuzz target.
set -uo pipefail
[ $# -ge 1 ] || { echo "usage: scripts/check.sh BUILD_DIR [STEP...]" >&2; exit 2; }
cd "$(dirname "$0")/.."
build=$1
shift
steps=${*:-includes symbols docs headers masks clang cuda asan fuzz}
logs=$build-check
passed=0
failed=0
mkdir -p "$logs"

# check NAME COMMAND...: runs it, keeps its output in a file, shows the end of it on failure.
check() {
    local name=$1 log=$logs/$1.log start=$SECONDS
    shift
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        printf '  ok      %-34s %4d s\n' "$name" $((SECONDS - start))
    else
        failed=$((failed + 1))
        printf '  FAILED  %-34s %4d s  (%s)\n' "$name" $((SECONDS - start)) "$log"
        tail -n 40 "$log" | sed 's/^/          /'
        return 1
    fi
}

cpu_has() { grep -qwm1 "$1" /proc/cpuinfo; }

format() { git ls-files '*.[ch]' '*.cc' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror; }

headers() {
    local bad=0 header
    for header in include/t3v/*.h; do
        printf '#include "t3v/%s"\nint t3v_alone;\n' "${header##*/}" |
            ${CC:-cc} -std=c11 -pedantic -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c - || bad=1
        printf '#include "t3v/%s"\nint t3v_alone;\n' "${header##*/}" |
            ${CXX:-c++} -std=c++17 -pedantic -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c++ - || bad=1
    done
    return $bad
}

# A mask that leaves this CPU as it is would repeat the tests.
masks() {
    local level flag
    for level in ref:avx2 avx2:avx512bw avx512:avx512_bf16; do
        flag=${level#*:}
        level=${level%:*}
        if ! cpu_has "$flag"; then
            echo "  skipped tests-cpu-$level: this CPU has no $flag, so it is $level or less without a mask"
            continue
        fi
        check "tests-cpu-$level" env T3V_CPU="$level" scripts/test.sh "$build"
    done
}

# The module compiles for its three architectures, links, and opens as far as a machine without a card lets it.
cuda() {
    local said module=$PWD/$build-cuda/libt3v-cuda.so
    scripts/build.sh "$build" && cmake -G Ninja -DT3V_CUDA=on -DT3V_TESTS=OFF -B "$build-cuda" . &&
        ninja -C "$build-cuda" t3v-cuda || return 1
    said=$(T3V_CUDA=$module "$build/t3v" bench gemm --config tiny --device auto --json 2>&1) || true
    echo "$said"
    if command -v nvidia-smi >/dev/null && nvidia-smi -L; then grep -q '"percent_of_peak"' <<<"$said"; else
        grep -q "runs on the CPU: no usable driver or card" <<<"$said"
    fi
}

fuzz() {
    local target name
    check build-fuzz scripts/build.sh "$build-fuzz" -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
        -DT3V_FUZZ=ON -DT3V_SANITIZE=ON -DT3V_TESTS=OFF || return
    for target in "$build-fuzz"/fuzz/fuzz_*; do
        [ -x "$target" ] || continue
        name=${target##*/}
        check "$name" scripts/fuzz.sh "$build-fuzz" "$logs/corpus" "${T3V_FUZZ_SECONDS:-30}" "${name#fuzz_}"
    done
}

export ASAN_OPTIONS=${ASAN_OPTIONS:-allocator_may_return_null=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
for step in $steps; do
    case $step in
        includes) check includes scripts/includes.sh ;;
        symbols) check build scripts/build.sh "$build" && check symbols scripts/symbols.sh "$build" ;;
        format) check format format ;;
        docs) check docs scripts/docs.sh "$build/t3v" ;;
        headers) check headers headers ;;
        masks) masks ;;
        clang)
            check build-clang scripts/build.sh "$build-clang" -DCMAKE_C_COMPILER=clang \
                -DCMAKE_CXX_COMPILER=clang++ -DT3V_WERROR=ON && check tests-clang scripts/test.sh "$build-clang" ;;
        cuda)
            if command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
                check build-cuda cuda
            else
                echo "  SKIPPED build-cuda: there is no nvcc; the CUDA module was not compiled"
            fi ;;
        asan)
            check build-asan scripts/build.sh "$build-asan" -DT3V_SANITIZE=ON &&
                check tests-asan scripts/test.sh "$build-asan" ;;
        fuzz) fuzz ;;
        *) echo "check: no step '$step'" >&2; exit 2 ;;
    esac
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
