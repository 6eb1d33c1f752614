#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# t3v eval video: bad input is told; sets have a distance; PSNR and SSIM are those of the ffmpeg program.
set -euo pipefail
t3v=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
number() { sed -n "s/.*\"$1\": \([0-9.e-]*\).*/\1/p"; }
holds() { awk "BEGIN { exit !($1) }" || { echo "not true: $1"; exit 1; }; }
near() { awk "BEGIN { d = ($2) - ($3); exit !(d < $4 && d > -($4)) }" || { echo "$1: $2, ffmpeg says $3"; exit 1; }; }
refused() { # STATUS WORDS ARGS...
    local want=$1 words=$2 status=0
    shift 2
    "$t3v" eval video "$@" --quiet >"$dir/out" 2>"$dir/err" || status=$?
    test $status = "$want" && grep -q -- "$words" "$dir/err" || { echo "eval video $*: status $status"; cat "$dir/err"; exit 1; }
}

"$t3v" data synth --count 3 --seed 9 --size 68x48 --frames 5 --format y4m -o "$dir/a" --quiet
"$t3v" data synth --count 2 --seed 10 --size 68x48 --frames 5 --format y4m -o "$dir/b" --quiet
"$t3v" data synth --count 1 --seed 9 --size 64x48 --frames 5 --format y4m -o "$dir/size" --quiet
"$t3v" data synth --count 1 --seed 9 --size 68x48 --frames 6 --format y4m -o "$dir/length" --quiet
a=$dir/a/clip_000000.y4m

refused 1 'one size' --ref "$a" --test "$dir/size/clip_000000.y4m"
refused 1 'ends after 5 frames' --ref "$a" --test "$dir/length/clip_000000.y4m"
refused 1 'cannot open' --test "$dir/none.mp4"
refused 1 'needs 2 of each' --ref "$dir/a" --test "$dir/size"
refused 1 'same name' --ref "$dir/b" --test "$dir/a" --pairs
refused 2 'two clips or two directories' --ref "$dir/a" --test "$a"
refused 2 'no border' --test "$a" --tile 100x100
refused 2 '--test is needed' --ref "$a"
echo '{"prompt": 1}' >"$dir/bad.safetensors"
refused 1 bad.safetensors --test "$dir/bad.safetensors"

same=$("$t3v" eval video --ref "$a" --test "$a" --json --quiet)
grep -q '"psnr_y": null' <<<"$same" # infinite
holds "$(number ssim_yuv <<<"$same") == 1 && $(number flicker_error <<<"$same") == 0 && $(number frames <<<"$same") == 5"
alone=$("$t3v" eval video --test "$a" --tile 16x32 --json --quiet)
holds "$(number warp_error <<<"$alone") == $(number warp_error <<<"$same") && $(number seam <<<"$alone") > 0"
! grep -q psnr <<<"$alone"

sets=$("$t3v" eval video --ref "$dir/a" --test "$dir/b" --json --quiet)
holds "$(number frechet <<<"$sets") > 0.01 && $(number clips <<<"$sets") == 2 && $(number ref_clips <<<"$sets") == 3"
! grep -q psnr <<<"$sets"
pairs=$("$t3v" eval video --ref "$dir/a" --test "$dir/a" --pairs --json --quiet)
holds "$(number frechet <<<"$pairs") < 1e-6 && $(number ssim_rgb <<<"$pairs") == 1 && $(number frames <<<"$pairs") == 15"

command -v ffmpeg >/dev/null || { echo "skipped: no ffmpeg program to compare with"; exit 77; }
# Damaged in RGB, so that every colour exists; as Y, U, V of 4:4:4, and as pictures.
ffmpeg -v error -i "$a" -vf "boxblur=1:1,format=gbrp,noise=alls=12:allf=t:all_seed=5,format=yuv444p" "$dir/bad.y4m"
mkdir "$dir/p" "$dir/q"
ffmpeg -v error -i "$dir/bad.y4m" "$dir/p/%05d.png"
ffmpeg -v error -i "$a" "$dir/q/%05d.png"
says() { # FILTER KEY: the program's number
    sed -n "s/.*$1 .* *$2:\([0-9.]*\).*/\1/p" "$dir/log"
}
compare() { # TEST REF FORMAT PLANES ALL
    local mine key
    mine=$("$t3v" eval video --test "$1" --ref "$2" --json --quiet)
    for f in psnr ssim; do
        ffmpeg -hide_banner -nostats -i "$1" -i "$2" -lavfi "[0]format=$3[x];[1]format=$3[y];[x][y]$f" -f null - 2>&1 |
            grep "Parsed_$f" | sed 's/.*\] //; s/All:/average:/' | tr 'A-Z' 'a-z' >"$dir/log"
        for key in $4; do
            near "$f $key of $1" "$(number "${f}_$key" <<<"$mine")" "$(says $f "$key")" "$([ $f = psnr ] && echo 0.01 || echo 1e-4)"
        done
        near "$f of $1" "$(number "${f}_$5" <<<"$mine")" "$(says $f average)" "$([ $f = psnr ] && echo 0.01 || echo 1e-4)"
    done
}
compare "$dir/bad.y4m" "$a" yuv444p "y u v" yuv
compare "$dir/p/%05d.png" "$dir/q/%05d.png" gbrp "r g b" rgb
