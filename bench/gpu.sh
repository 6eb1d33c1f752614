#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that a machine with a GPU is needed for, in one command of less than ten minutes: whether the CUDA module
# computes what the CPU does, and how fast it is. The table is Markdown, on stdout and in $RESULTS/table.md; each part has a
# time limit of its own, and what an earlier part found stays when a later one fails.
#
#   bench/gpu.sh              builds what is missing (the module for this card alone), runs all
#   bench/gpu.sh pack DIR     on a machine without a card: programs, module and libraries into DIR, for one where nothing can
#                             be installed; there: DIR/bench/gpu.sh. AV=1: with libav too, for an mp4 (165 MB more)
#
#   environment: BUILD (build), RESULTS (BUILD-gpu), SECONDS_ALL (570), ONLY (a pattern of part names: kernels, forward, attention,
#                vae, clip, dense, sanitizer), MODEL (a model directory for the whole job; without it one with random
#                weights is made), PYTHON (python3), PEER (bench/gpu_t3.py: PEER T,H,W HEADS DIM t,h,w... prints a line for
#                each of the last: itself, milliseconds of T3's attention in one layer, by what), DRY=1 (no card: the emulated
#                module and tiny sizes, to try this script)
#
# Parts come in the order of what they are worth; on an H200 all should take about seven minutes, on an H20, whose products
# are five times slower, the last may find no time left.
set -uo pipefail
cd "$(dirname "$0")/.."
here=$PWD

pack() { # DIR
    local to=$1 build=${BUILD:-build} lib av=()
    [ -n "$to" ] && [ ! -e "$to" ] || { echo "gpu.sh: pack needs a directory that does not exist yet" >&2; return 2; }
    [ -e "$build/libt3v-cuda.so" ] || { echo "gpu.sh: $build/libt3v-cuda.so is missing; run make cuda" >&2; return 1; }
    mkdir -p "$to/build/tests" "$to/lib" "$to/tests/golden" && cp -r bench "$to" && cp -r tests/e2e "$to/tests" &&
        cp -r tests/golden/wan "$to/tests/golden" && cp "$build/t3v" "$build/libt3v-cuda.so" "$to/build" &&
        cp "$build"/tests/{test_kernels,test_fp8,test_emulate,compare_tensors,libt3v-cuda-emulated.so} "$to/build/tests" || return 1
    if [ -n "${AV:-}" ]; then
        av=("$build/libt3v-av.so")
        cp "${av[0]}" "$to/build" || return 1
    fi
    # Not the C and C++ libraries: every machine has its own.
    ldd "$build/t3v" "$build"/tests/test_{kernels,fp8} "${av[@]}" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u |
        grep -v '/lib\(c\|m\|dl\|rt\|pthread\|stdc++\|gcc_s\)\.so' | while read -r lib; do cp -L "$lib" "$to/lib"; done
    echo "$to: $(du -sm "$to" | cut -f1) MiB"
}
if [ $# -gt 0 ]; then
    [ "$1" = pack ] || { sed -n '3,20s/^# \{0,1\}//p' "$0" >&2; exit 2; }
    pack "${2:-}"
    exit
fi

build=${BUILD:-build} only=${ONLY:-} total=${SECONDS_ALL:-570} start=$SECONDS bad=0
results=${RESULTS:-$build-gpu} python=${PYTHON:-python3} peer=${PEER:-bench/gpu_t3.py}
[ ! -d lib ] || export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
mkdir -p "$results" || exit 1
results=$(cd "$results" && pwd) build=$(mkdir -p "$build" && cd "$build" && pwd)
t3v=$build/t3v table=$results/table.md said=$results/said.log
export T3V_BUILD=$build T3V_CUDA=$build/libt3v-cuda.so
: >"$table"

say() { printf '%s\n' "$*" | tee -a "$table"; }
calc() { awk "BEGIN { printf \"%.${2:-2f}\", $1 }"; }
left() { echo $((total - SECONDS + start)); }
limited() { # SECONDS command...: at most so long, and no longer than is left of all
    local limit=$1 rest
    shift
    rest=$(left)
    [ "$rest" -gt 3 ] || { echo "no time left of $total s" >&2; return 125; }
    [ -z "${DRY:-}" ] || limit=$((5 * limit)) # a figure of a loaded machine is as good as any
    [ "$limit" -le "$rest" ] || limit=$rest
    timeout -k 5 "$limit" "$@"
    local rc=$?
    [ $rc -ne 124 ] && [ $rc -ne 137 ] || echo "took more than $limit s" >&2
    return $rc
}
part() { [[ $1 =~ $only ]] && say && say "## $1 ($((SECONDS - start)) s)" && say; }
last() { tail -n 1 "$said" | tr '|' '/' | cut -c1-160; }
begun=() # of each that was begun its name, the file of its output, its process
begin() { # NAME SECONDS command...: runs beside what comes until `ended`
    local log=$results/${1//[^A-Za-z0-9]/_}.log
    {
        from=$SECONDS
        limited "${@:2}" >"$log" 2>&1
        echo $? $((SECONDS - from)) >"$log.rc"
    } &
    begun+=("$1" "$log" $!)
}
ended() { # waits for all; a line for each: its output is kept, and shown where it fails
    local i rc took
    for ((i = 0; i < ${#begun[@]}; i += 3)); do
        wait "${begun[i + 2]}"
        read -r rc took <"${begun[i + 1]}.rc"
        rm "${begun[i + 1]}.rc"
        if [ "$rc" -eq 0 ]; then say "* ok: ${begun[i]} ($took s)"; else
            say "* **FAILED**: ${begun[i]} ($took s)"
            tail -n 15 "${begun[i + 1]}" | sed 's/^/        /' | tee -a "$table"
            bad=$((bad + 1))
        fi
    done
    begun=()
}
check() { begin "$@" && ended; }
field() { sed -n "s/.*\"$1\": \{0,1\}\"\{0,1\}\([^,\"}]*\).*/\1/p" <<<"$2"; }
head_row() {
    say "| what | ms | Tflop/s | % of peak | % of copy bandwidth | GiB |"
    say "|---|---:|---:|---:|---:|---:|"
}
row() { # NAME SECONDS bench options: rows of the table (NAME -: as the bench calls them); $seconds: of the last
    local name=$1 limit=$2 lines line
    shift 2
    seconds='' percent=''
    if ! lines=$(limited "$limit" "$t3v" bench --device cuda --precision bf16 --json --quiet "$@" 2>"$said"); then
        say "| ${name/#-/$1} | **FAILED**: $(last) | | | | |"
        bad=$((bad + 1))
        return
    fi
    while read -r line; do
        seconds=$(field seconds "$line") percent=$(field percent_of_peak "$line")
        [ "$name" = - ] || line=${line/\"what\":\"*([^\"])\"/}
        say "| $([ "$name" = - ] && field what "$line" || echo "$name") | $(calc "1000 * $seconds" 3f) | $(calc "$(field gflops "$line") / 1000" 1f) | $percent | $(field percent_of_bandwidth "$line") | $(calc "$(field peak_device_bytes "$line") / 2^30") |"
    done <<<"$lines"
}
torch() { # blocks...: a row for each, and the last: full attention; $peers: seconds of all but that, $full_peer: of that
    local blocks ms by layer=0
    peers='' full_peer=''
    if ! limited 110 "$python" "$peer" "$grid" $heads $dim "$@" 1,1,1 >"$results/peer" 2>"$said"; then
        say "| T3 in PyTorch | SKIPPED: $(last) | | | | |"
    fi
    while read -r blocks ms by; do
        if [ $layer -eq $# ]; then
            say "| full, $tokens tokens, PyTorch ($by) | $ms | | | | |"
            full_peer=$(calc "$ms / 1000" 6f)
        else
            say "| T3, kind $layer, PyTorch ($by) | $ms | | | | |"
            layer=$((layer + 1)) peers=$(calc "${peers:-0} + $ms / 1000" 6f)
        fi
    done <"$results/peer"
    [ $layer -eq $# ] || peers=''
}

if [ -n "${DRY:-}" ]; then
    export T3V_CUDA=$build/tests/libt3v-cuda-emulated.so
    card="DRY RUN: the emulator, tiny sizes; no figure below means anything"
    hopper=1 eight=1
    grid=1,4,4 heads=2 dim=16 plan=t3:blocks=1x1x1/1x2x2 kinds="1,1,1 1,2,2" layers=2 tokens=16 frame=1,2,2
    small=tiny large=tiny giant=tiny size=64x48 frames=5 vae_size=16x16 vae_frames= rows=8 conv=1x1 job_size=16x16
    tests=$build/tests/test_emulate steps=1 repeat=1 programs=tests/e2e/device.sh
else
    for dir in /usr/local/cuda/bin /opt/nvidia/nsight-compute/*/; do [ ! -d "$dir" ] || PATH=$PATH:$dir; done
    card=$(nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm --format=csv,noheader |
        sed -n 1p) && [ -n "$card" ] ||
        { echo "gpu.sh: nvidia-smi finds no card; DRY=1 tries the script without one" >&2; exit 1; }
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
    hopper=$(grep -x '9\.0' <<<"$capability") eight=$(awk '$1 >= 8.9' <<<"$capability") # eight: it multiplies 8-bit floats
    # Native 4K: 21x136x240 tokens; 1.3B has 12 heads of 128. The five kinds of T3's 30 layers.
    grid=21,136,240 heads=12 dim=128 plan=t3 kinds="21,1,1 1,17,30 1,8,40 3,17,8 7,8,6" layers=30 tokens=685440 frame=1,136,240
    small=wan2.1-t2v-1.3b large=wan2.2-ti2v-5b giant=wan2.1-t2v-14b size=3840x2176 frames=81 vae_size=3840x2176
    vae_frames="9 81" rows=8192 conv=1920x1088 job_size=3840x2160 steps=2 repeat=7 tests=$build/tests/test_kernels
    programs=$(echo tests/e2e/cuda*.sh)
fi
# cuBLASLt where the module does not find it: beside PyTorch, in another CUDA.
lacks() { ldd "$T3V_CUDA" 2>/dev/null | grep -q 'not found'; }
if [ -e "$T3V_CUDA" ] && lacks; then
    for dir in /usr/local/cuda*/lib64 /usr/lib/x86_64-linux-gnu \
        $("$python" -c 'import glob, sys; print(*(d for p in sys.path for d in glob.glob(p + "/nvidia/*/lib")))' 2>/dev/null); do
        [ -z "$(ls "$dir"/libcublasLt.so.* 2>/dev/null)" ] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$dir
    done
    ! lacks || { echo "gpu.sh: $T3V_CUDA needs $(ldd "$T3V_CUDA" | sed -n 's/^[ \t]*\(.*\) => not found/\1/p' | xargs): install CUDA," \
        "or copy them to $here/lib" >&2; exit 1; }
fi

# What is there is used; else it is built, where that is possible.
if ! "$t3v" --version >"$said" 2>&1 || [ ! -e "$T3V_CUDA" ]; then
    missing=
    for tool in cmake ninja cc c++ pkg-config nvcc; do
        PATH=$PATH:/usr/local/cuda/bin command -v $tool >/dev/null || missing+=" $tool"
    done
    for lib in jansson sentencepiece libutf8proc libpng zlib cmocka; do
        pkg-config --exists $lib 2>/dev/null || missing+=" $lib"
    done
    if [ -n "$missing" ]; then
        echo "gpu.sh: no $t3v that runs ($(last)), and it cannot be built here without:$missing" >&2
        echo "gpu.sh: bench/gpu.sh pack DIR, elsewhere, makes a directory that needs none of them" >&2
        exit 1
    fi
    check "build" 280 scripts/build.sh "$build"
    [ -e "$T3V_CUDA" ] || { echo "gpu.sh: no CUDA module was built; see $results/build.log" >&2; exit 1; }
fi

# A card that cannot be opened says why once, not in every part.
if ! "$t3v" bench attention --grid 1,2,2 --heads 1 --dim 16 --repeat 1 --device cuda --quiet >"$said" 2>&1 &&
    grep -q "no CUDA device" "$said"; then
    echo "gpu.sh: $(last)" >&2
    exit 1
fi

say "# T3V on $card"
say
say "$(date -u +%F), $("$t3v" --version), $(nproc) processor cores, CUDA $(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'), PyTorch $("$python" -c 'import torch; print(torch.__version__)' 2>/dev/null || echo "not installed")"

# Random weights take a minute of one processor core: beside the other parts.
model=${MODEL:-$results/model} making=
if [[ clip =~ $only ]] && [ ! -e "$model" ]; then
    "$t3v" init --config $small --parts dit,vae,text,tokenizer --quiet -o "$model" >"$results/model.log" 2>&1 &
    making=$!
fi

if part kernels; then
    begin "every kernel against the CPU's, random shapes with tails, f32 and bf16" 120 $tests
    [ -z "$eight" ] || begin "products of 8-bit floats against doubles of their rows" 60 "$build/tests/test_fp8"
    for script in $programs; do
        begin "$script: parts of a tiny model against the CPU" 180 bash "$script" "$t3v"
    done
    ended
fi

if part forward; then
    head_row
    row "$small, $size, $frames frames, t3: a pass" 120 step --config $small --plan t3 --size $size --frames $frames --repeat 1
    pass=$seconds
    of_peak=$percent
    row "$small, the same, full: one layer of $layers" 120 block --config $small --plan full --size $size --frames $frames --repeat 1
    full=$seconds
    row "$large, $size, $frames frames, t3: a pass" 90 step --config $large --plan t3 --size $size --frames $frames --repeat 1
    pass_large=$seconds
    row "$large, the same, full: one layer of $layers" 60 block --config $large --plan full --size $size --frames $frames --repeat 1
    full_large=$seconds
    say
    [ -z "$pass" ] || say "T3 at $of_peak % of the measured bf16 peak (goal: 60)"
    [ -z "$pass" ] || [ -z "$full" ] || say "$small with full attention: $(calc "$full * $layers" 1f) s a pass, $(calc "$full * $layers / $pass" 1f) times t3 (goal: 28)"
    [ -z "$pass_large" ] || [ -z "$full_large" ] || say "$large with full attention: $(calc "$full_large * $layers" 1f) s a pass, $(calc "$full_large * $layers / $pass_large" 1f) times t3"
fi
# A slow card: what is measured more than once elsewhere is left out.
[ -z "${pass:-}" ] || [ "$(calc "($pass > 20)" 0f)" = 0 ] || vae_frames=9 steps=1

if part attention; then
    head_row
    sum=0 layer=0
    for blocks in $kinds; do
        row "T3, kind $layer, $tokens tokens" 60 attention --plan "$plan" --grid $grid --heads $heads --dim $dim --layer $layer --repeat 5
        sum=$([ -n "$seconds" ] && [ -n "$sum" ] && calc "$sum + $seconds" 6f)
        [ -z "$hopper" ] || T3V_CARD=sm_80 row "the same without wgmma" 60 attention --plan "$plan" --grid $grid --heads $heads --dim $dim --layer $layer --repeat 5
        layer=$((layer + 1))
    done
    row "full, one frame" 60 attention --plan full --grid $frame --heads $heads --dim $dim --repeat 5
    torch $kinds
    say
    [ -z "$sum" ] || say "T3's attention in $layers layers: $(calc "$sum * $layers / $layer") s"
    [ -z "$sum" ] || [ -z "$peers" ] || say "The same in PyTorch: $(calc "$peers * $layers / $layer") s, $(calc "$peers / $sum") times as long (goal: 1.5)"
    [ -z "$full_peer" ] || say "PyTorch's full attention in $layers layers: $(calc "$full_peer * $layers") s"
    [ -z "${pass:-}" ] || [ -z "$full_peer" ] || say "PyTorch's full attention alone: $(calc "$full_peer * $layers / $pass" 1f) times a pass with t3"
fi
if part vae; then
    head_row
    for n in $vae_frames; do
        row "VAE decode, $vae_size, $n frames" 90 vae --size $vae_size --frames "$n" --repeat 1
    done
fi
if part clip; then
    out=$results/clip.mp4
    if [ ! -e "$build/libt3v-av.so" ] || ldd "$build/libt3v-av.so" | grep -q 'not found'; then
        out=$results/clip.y4m
        say "No libav here: the clip is y4m, not mp4."
        say
    fi
    [ -z "$making" ] || wait "$making" || { say "Random weights of $small: **FAILED**: $(tail -n 1 "$results/model.log")"; say; }
    if line=$(limited 240 "$t3v" generate --device cuda --precision bf16 --model "$model" --plan t3 --size $job_size --frames $frames --steps $steps --cfg 1 \
        --seed 1 --prompt "A red ball rolls over the beach" --json --quiet -o "$out" 2>"$said" | tr -d '\n'); then
        say "| prompt to ${out##*.}, $job_size, $frames frames, $steps steps | text | denoise | decode | GPU, GiB | host, GiB |"
        say "|---|---:|---:|---:|---:|---:|"
        gpu_bytes=$(field peak_device_bytes "$line")
        say "| seconds | $(field seconds_text "$line") | $(field seconds_denoise "$line") | $(field seconds_decode "$line") | $(calc "${gpu_bytes:-0} / 2^30") | $(calc "$(field peak_bytes "$line") / 2^30") |"
    else
        say "**FAILED**: $(last)"
        bad=$((bad + 1))
    fi
    rm -rf "$results/model" "$out"
fi
if part dense; then
    head_row
    one_layer=(block --config $giant --plan t3 --size "$([ -n "${DRY:-}" ] && echo $size || echo 832x480)" --frames $frames --repeat 3)
    row - 60 gemm --config $small --rows $rows
    [ -z "$eight" ] || row - 60 gemm --config $small --rows $rows --act fp8
    row - 60 conv --size $conv --repeat $repeat
    row "$giant, 832x480, t3: one layer" 60 "${one_layer[@]}"
    bf16=$seconds
    [ -z "$eight" ] || row "the same in 8-bit floats" 60 "${one_layer[@]}" --act fp8
    say
    [ -z "$eight" ] || [ -z "$bf16" ] || [ -z "$seconds" ] || say "8-bit floats: a layer of $giant $(calc "$bf16 / $seconds") times as fast as in bf16"
fi
# Last: it takes what time there is.
if part sanitizer; then
    probe=("$t3v" bench attention --grid 1,2,2 --heads 1 --dim 16 --repeat 1 --device cuda --quiet)
    if ! command -v compute-sanitizer >/dev/null; then
        say "* SKIPPED: compute-sanitizer is not installed"
    elif compute-sanitizer "${probe[@]}" 2>&1 | grep -i 'not supported' >"$said"; then
        say "* SKIPPED: compute-sanitizer: $(last)"
    else
        golden=tests/golden/wan
        pass_back=(dit --device cuda --quiet --model $golden/tiny --plan t3 --latent $golden/dit.safetensors --target $golden/dit.safetensors
            --context $golden/dit.safetensors --timestep 731 -o "$results/v.safetensors" --grad "$results/g.safetensors")
        for tool in memcheck racecheck synccheck initcheck; do
            begin "compute-sanitizer $tool: kernels" 120 compute-sanitizer --tool $tool --error-exitcode 9 $tests
            begin "compute-sanitizer $tool: a pass and its gradients" 120 compute-sanitizer --tool $tool --error-exitcode 9 "$t3v" "${pass_back[@]}"
        done
        ended
        rm -f "$results"/[vg].safetensors
    fi
fi
[ -z "$making" ] || { kill $making 2>/dev/null; [ -n "${MODEL:-}" ] || rm -rf "$results/model"; }
say
say "$((SECONDS - start)) s, $bad failed; the table is $table"
[ $bad -eq 0 ]
