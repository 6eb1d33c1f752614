#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the pages: links and named files exist, `t3v COMMAND --option` is something the program knows.
# usage: scripts/docs.sh T3V_PROGRAM
set -euo pipefail
[ $# = 1 ] || { echo "usage: scripts/docs.sh T3V_PROGRAM" >&2; exit 2; }
t3v=$(realpath "$1")
cd "$(dirname "$0")/.."
bad=0
complain() { echo "$1"; bad=$((bad + 1)); }
declare -A options
for command in $("$t3v" --help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
    options[$command]=" $("$t3v" "$command" --help | grep -o -- '--[a-z][a-z-]*' | sort -u | tr '\n' ' ')"
done
for page in $(git ls-files '*.md'); do
    dir=$(dirname "$page")
    while read -r link; do
        [ -e "$dir/$link" ] || complain "$page: link to $link, which is not there"
    done < <(grep -o '](\([^)#]*\)' "$page" | sed 's/^](//' | grep -v '^[a-z]*:' || true)
    # `path` and `path/name.c` in the tree's own folders.
    while read -r file; do
        [ -e "$file" ] || complain "$page: $file is not there"
    done < <(grep -oE '(^|[` (])(src|cli|include|tests|scripts|models|docs|cmake)/[A-Za-z0-9_./-]+' "$page" |
        sed -E 's/^[` (]//; s/[.,:]$//' | grep -v '^docs/img' | grep -vE '[A-Z]{3}|_$' | sort -u || true)
    # Commands in indented or fenced blocks; a line that ends in a backslash goes on.
    while read -r command rest; do
        [ -n "${options[$command]:-}" ] || { complain "$page: no command t3v $command"; continue; }
        for word in $(grep -oE -- '(^| |\[)--[a-z][a-z-]*' <<<"$rest" | tr -d ' ['); do
            [[ ${options[$command]} == *" $word "* ]] || complain "$page: t3v $command has no $word"
        done
    done < <(sed -e ':a' -e '/\\$/N; s/\\\n//; ta' "$page" | grep -oE '^(    |    build/)t3v [a-z].*|`(build/)?t3v [a-z][^`]*`' |
        sed -E 's/^[` ]*(build\/)?t3v //; s/`$//' || true)
done
[ "$bad" -eq 0 ] || { echo "docs: $bad wrong"; exit 1; }
