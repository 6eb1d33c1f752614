#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs into an empty prefix, then uses what is there: the program, and the header's example through the CMake
# package and through pkg-config.
set -euo pipefail
build=${T3V_BUILD:?}
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }
if [ "$(cached T3V_SANITIZE)" = ON ]; then
    echo "install: skipped, a sanitized library needs a sanitized program"
    exit 77
fi
[ -f "$build/libt3v-av.so" ] || { echo "install: skipped, no libav module was built"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
root=$dir/root
cmake --install "$build" --prefix "$root" > "$dir/log"
find "$root" -type f -o -type l | sed "s|^$root/||" | sort > "$dir/files"
for file in bin/t3v include/t3v/t3v.h lib/libt3v.a lib/t3v/libt3v-av.so lib/cmake/t3v/t3vConfig.cmake \
    lib/pkgconfig/t3v.pc share/man/man1/t3v.1 share/man/man1/t3v-generate.1 \
    share/bash-completion/completions/t3v; do
    grep -qx "$file" "$dir/files" || { echo "install: $file is missing"; cat "$dir/files"; exit 1; }
done
if grep -rqsF "$build" "$root/lib/cmake" "$root/lib/pkgconfig" "$root/share"; then
    echo "install: a file names the build directory"
    exit 1
fi

echo "# the program"
"$root/bin/t3v" --version | grep -q '^t3v [0-9]'
"$root/bin/t3v" data synth --count 1 --frames 5 --size 64x64 --quiet -o "$dir/clips"
[ -s "$dir/clips/clip_000000.mp4" ]
# Every command has its page, and every page is clean.
for command in $("$root/bin/t3v" --help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
    [ -s "$root/share/man/man1/t3v-$command.1" ] || { echo "install: no page for $command"; exit 1; }
done
if command -v groff > /dev/null; then
    [ -z "$(groff -man -Tascii -ww -z "$root"/share/man/man1/*.1 2>&1)" ] || { echo "install: groff complains"; exit 1; }
fi
bash -c '. "$0"; COMP_WORDS=(t3v gen); COMP_CWORD=1; _t3v; [ "${COMPREPLY[*]}" = generate ]' \
    "$root/share/bash-completion/completions/t3v"

echo "# the header's example, word for word"
{
    printf '#include <stdio.h>\n#include <t3v/t3v.h>\nint main(void)\n{\n'
    sed -n '2,/\*\//p' "$root/include/t3v/t3v.h" | sed -n 's/^ \*     //p'
    printf 'return 0;\n}\n'
} > "$dir/heron.c"
grep -q t3v_generate "$dir/heron.c"
# The model it names: a tiny one, whose t3v.json asks for little.
mkdir "$dir/Wan2.1-T2V-1.3B"
ln -s "$PWD"/tests/golden/wan/tiny/* "$dir/Wan2.1-T2V-1.3B/"
echo '{"width": 32, "height": 32, "frames": 5, "steps": 2}' > "$dir/Wan2.1-T2V-1.3B/t3v.json"
run() { # PROGRAM, beside t3v: its video module is found from there
    rm -f "$dir/heron.mp4"
    cp "$1" "$root/bin/heron"
    (cd "$dir" && "$root/bin/heron")
    [ -s "$dir/heron.mp4" ]
}
cc=$(cached CMAKE_C_COMPILER)
export PKG_CONFIG_PATH=$root/lib/pkgconfig
$cc -std=c11 -Wall -Werror "$dir/heron.c" $(pkg-config --cflags --libs t3v) -o "$dir/by-pkg-config"
run "$dir/by-pkg-config"
cat > "$dir/CMakeLists.txt" << 'END'
cmake_minimum_required(VERSION 3.22)
project(heron LANGUAGES C)
find_package(t3v 0.1 REQUIRED)
add_executable(heron heron.c)
target_link_libraries(heron PRIVATE t3v::t3v)
END
cmake -S "$dir" -B "$dir/by-cmake" -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$root" > "$dir/log" || { cat "$dir/log"; exit 1; }
cmake --build "$dir/by-cmake" > "$dir/log" || { cat "$dir/log"; exit 1; }
run "$dir/by-cmake/heron"
echo "ok"
