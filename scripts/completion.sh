#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the bash completion of t3v from what the program itself says with --help.
# usage: scripts/completion.sh T3V_PROGRAM > FILE
set -euo pipefail
[ $# = 1 ] || { echo "usage: scripts/completion.sh T3V_PROGRAM > FILE" >&2; exit 2; }
t3v=$1
export ARGP_HELP_FMT=rmargin=2000,opt-doc-col=40 LC_ALL=C.UTF-8
commands=$("$t3v" --help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')

cat <<'HEAD'
# bash completion of t3v; generated from its --help.
_t3v()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev= words=
    (( COMP_CWORD > 0 )) && prev=${COMP_WORDS[COMP_CWORD-1]}
    COMPREPLY=()
HEAD
printf '    if (( COMP_CWORD == 1 )); then\n        COMPREPLY=($(compgen -W "%s --help --version" -- "$cur"))\n        return\n    fi\n' \
    "$(echo $commands)"
# An option with a value: the words of a list "a|b", else a file.
options=$(for c in $commands; do "$t3v" "$c" --help; done | sed -n 's/^ \{2,6\}\(-., \)\{0,1\}\(--[a-z-]*\)=\([^ ]*\).*/\2 \3/p' | sort -u)
printf '    case $prev in\n'
grep ' .*|' <<<"$options" | while read -r option values; do
    if [[ $values =~ ^[a-z0-9|]+$ ]]; then printf '    %s) words="%s" ;;\n' "$option" "${values//|/ }"; fi
done
printf '    -o|-i|%s) compopt -o default; return ;;\n' "$(cut -d' ' -f1 <<<"$options" | sort -u | paste -sd'|')"
printf '    esac\n    if [[ $words ]]; then\n        COMPREPLY=($(compgen -W "$words" -- "$cur"))\n        return\n    fi\n'
printf '    case ${COMP_WORDS[1]} in\n'
for c in $commands; do
    what=$("$t3v" "$c" --help | sed -n '1s/.*\[OPTION...\] *\([a-z]*\)$/\1/p')
    printf '    %s) words="%s%s" ;;\n' "$c" "${what:+$what }" \
        "$("$t3v" "$c" --help | sed -n 's/^ \{2,6\}\(-., \)\{0,1\}\(--[a-z-]*\).*/\2/p' | tr '\n' ' ')"
done
printf '    esac\n    COMPREPLY=($(compgen -W "$words" -- "$cur"))\n}\ncomplete -F _t3v t3v\n'
