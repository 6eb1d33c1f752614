#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the manual pages, t3v.1 and one t3v-COMMAND.1 each, from what the program itself says with --help.
# usage: scripts/man.sh T3V_PROGRAM OUT_DIR
set -euo pipefail
[ $# = 2 ] || { echo "usage: scripts/man.sh T3V_PROGRAM OUT_DIR" >&2; exit 2; }
t3v=$1
out=$2
mkdir -p "$out"
export ARGP_HELP_FMT=rmargin=2000,opt-doc-col=40 LC_ALL=C.UTF-8 # one option a line, its text from column 40
version=$("$t3v" --version)
roff() { sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/'/\\\\(aq/g" -e 's/`/\\(ga/g' -e 's/^\./\\\&./'; }

page() { # COMMAND SUMMARY
    printf '.TH "T3V\\-%s" 1 "" "%s" "T3V"\n.ad l\n.SH NAME\nt3v\\-%s \\- %s\n' "${1^^}" "$version" "$1" "$2"
    "$t3v" "$1" --help | roff | awk '
        NR == 1 { sub(/^Usage: /, ""); print ".SH SYNOPSIS"; print ".B " $0; part = "text"; print ".SH DESCRIPTION"; next }
        /^Mandatory or optional arguments/ { next }
        /^ [A-Z].*:$/ { section(); sub(/^ /, ""); sub(/:$/, ""); print ".SS " $0; next }
        /^  (\\-|    )/ && part != "notes" {
            section()
            sub(/^ +/, "")
            at = match($0, /   +/)
            print ".TP"; print ".B " substr($0, 1, at - 1); print substr($0, at + RLENGTH); part = "options"; next
        }
        /^$/ { if (part == "options") part = "after"; else if (part != "after") print ".PP"; next }
        part == "after" { print ".SH NOTES"; part = "notes" }
        /^  / { print ".nf"; print; print ".fi"; next }
        { print }
        function section() { if (part == "text") { print ".SH OPTIONS"; part = "options" } }'
    printf '.SH "EXIT STATUS"\n0 done, 1 failed, 2 wrong use, 130 cancelled.\n.SH "SEE ALSO"\n.BR t3v (1)\n'
}

commands=()
while read -r name summary; do
    commands+=("$name")
    page "$name" "$(roff <<<"$summary")" >"$out/t3v-$name.1.tmp"
    mv "$out/t3v-$name.1.tmp" "$out/t3v-$name.1"
done < <("$t3v" --help | sed -n 's/^  \([a-z]\)/\1/p')

{
    printf '.TH T3V 1 "" "%s" "T3V"\n.ad l\n.SH NAME\nt3v \\- %s\n' "$version" "$("$t3v" --help | sed -n '1s/^t3v: //p' | roff)"
    printf '.SH SYNOPSIS\n.B t3v\n.I COMMAND\n.RI [ options ]\n.SH COMMANDS\n'
    "$t3v" --help | sed -n 's/^  \([a-z]\)/\1/p' | while read -r name summary; do
        printf '.TP\n.BR t3v\\-%s (1)\n%s\n' "$name" "$(roff <<<"$summary")"
    done
    printf '.SH ENVIRONMENT\n.TP\n.B T3V_CPU\nref, avx2, avx512 or avx512bf16: the most the program may use of the processor.\n'
    printf '.TP\n.B TMPDIR\nwhere the frames of tiled decoding are kept when they pass the memory limit (default: /var/tmp).\n'
    printf '.SH "EXIT STATUS"\n0 done, 1 failed, 2 wrong use, 130 cancelled. Results are on standard output, all else on standard error.\n'
} >"$out/t3v.1.tmp"
mv "$out/t3v.1.tmp" "$out/t3v.1"
