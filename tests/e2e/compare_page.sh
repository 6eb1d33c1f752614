#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The page of t3v compare in headless Chromium, from the disk: every clip plays to its end, one control moves all of them,
# the table is full, nothing is fetched, it fits a phone. A page with a broken clip, or an empty cell, does not pass.
# usage: compare_page.sh T3V [PAGE.html [SCREENSHOT.png]]: with PAGE, that page instead of one of its own.
set -euo pipefail
t3v=$1
browser=
for name in chromium chromium-browser google-chrome; do
    if command -v $name > /dev/null; then browser=$name; break; fi
done
[ -n "$browser" ] || { echo "compare_page: SKIPPED, no Chromium on this machine (apt-get install chromium)"; exit 77; }
[ -e "$(dirname "$t3v")/libt3v-av.so" ] || { echo "compare_page: SKIPPED, no libav module was built"; exit 77; }
dir=$(mktemp -d)
pid=
finish() {
    [ -z "$pid" ] || kill "$pid" 2> /dev/null || true
    wait 2> /dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

if [ $# -gt 1 ]; then
    page=$(realpath "$2")
else
    "$t3v" compare --quiet --model tests/golden/wan/tiny --size 64x48 --frames 17 --steps 1 --count 2 --variant plan=full \
        --variant "name=<b>\"x'&</b>,plan=t3:blocks=1x1x1/1x1x2" --variant name=again,plan=full -o "$dir/page" > /dev/null
    page=$dir/page/index.html
fi

# The browser's debugging protocol: messages that end in a zero byte, to its descriptor 3 and from its descriptor 4.
mkfifo "$dir/to" "$dir/from"
exec 8<> "$dir/to" 9<> "$dir/from"
"$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --mute-audio --remote-debugging-pipe \
    --user-data-dir="$dir/profile" about:blank 3<&8 4>&9 8>&- 9>&- > /dev/null 2> "$dir/browser.log" &
pid=$!
count=0
session=
ask() { # METHOD PARAMS: the answer in $answer
    count=$((count + 1))
    printf '{"id":%d,%s"method":"%s","params":%s}\0' $count "${session:+\"sessionId\":\"$session\",}" "$1" "$2" >&8
    while IFS= read -r -d '' -t 240 answer <&9; do
        [[ $answer == "{\"id\":$count,"* ]] || continue
        [[ $answer != *'"error":{'* ]] || { echo "$1: $answer" >&2; exit 1; }
        return 0
    done
    echo "compare_page: no answer from $browser to $1" >&2
    tail -5 "$dir/browser.log" >&2
    exit 1
}
field() { sed "s/.*\"$1\":\"\([^\"]*\)\".*/\1/" <<< "$answer"; }
evaluate() { # EXPRESSION (no quotes but single ones): its value, a string, in $answer
    ask Runtime.evaluate "{\"expression\":\"${1//$'\n'/ }\",\"awaitPromise\":true,\"returnByValue\":true}"
    [[ $answer != *exceptionDetails* ]] || { echo "$1: $answer" >&2; exit 1; }
}
open_page() {
    ask Page.navigate "{\"url\":\"file://$1\"}"
    evaluate "new Promise(r => document.readyState === 'complete' ? r('') : addEventListener('load', () => r('')))"
}
check() { evaluate "compareCheck().then(r => 'clips=' + r.clips + ' cells=' + r.cells + ' bad=' + r.bad.length + ' ' + r.bad.join('; '))"; }
says() { [[ $answer == *"$1"* ]] || { echo "expected $1, got: $answer" >&2; exit 1; }; }

ask Target.createTarget '{"url":"about:blank"}'
target=$(field targetId)
ask Target.attachToTarget "{\"targetId\":\"$target\",\"flatten\":true}"
session=$(sed 's/.*"result":{"sessionId":"\([^"]*\)".*/\1/' <<< "$answer")

echo "# every clip plays to its end, every cell holds something"
open_page "$page"
check
says ' bad=0 '
[ $# -gt 1 ] || says 'clips=6 cells=39 bad=0 '

echo "# one control: all clips are at one time, and at the end of the slider at theirs"
evaluate "(async () => { const at = document.getElementById('at'), all = [...document.querySelectorAll('.clips:not([hidden]) video')];
    const move = async x => { at.value = x; at.dispatchEvent(new Event('input')); while (all.some(v => v.seeking)) await new Promise(r => setTimeout(r, 20)); };
    await move(500); const half = all.every(v => Math.abs(v.currentTime - v.duration / 2) < 0.01 && v.paused);
    await move(1000); const end = all.every(v => v.duration - v.currentTime < 0.01);
    document.getElementById('play').click(); await new Promise(r => setTimeout(r, 300));
    return 'clips ' + all.length + ' half ' + half + ' end ' + end + ' playing ' + all.every(v => !v.paused); })()"
says 'half true end true playing true'
evaluate "(async () => { const pick = document.getElementById('pick'); pick.selectedIndex = pick.length - 1; pick.dispatchEvent(new Event('change'));
    const all = [...document.querySelectorAll('.clips:not([hidden]) video')]; while (all.some(v => v.readyState < 2 && !v.error)) await new Promise(r => setTimeout(r, 20));
    return 'last prompt ' + (all.length > 1 && all.every(v => !v.error && v.currentSrc)); })()"
says 'last prompt true'

echo "# nothing is fetched; names are text; 1280 pixels and a phone are wide enough"
evaluate "'fetched ' + performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
[ $# -gt 1 ] || says 'fetched 0'
[ $# -gt 1 ] || { evaluate "'name ' + document.querySelectorAll('th[scope=row]')[1].textContent + ' elements ' + document.querySelectorAll('th b, h3 b').length"; says "name <b>\\\"x'&</b> elements 0"; }
evaluate "'without alt ' + document.querySelectorAll('img:not([alt]), video:not([aria-label]), svg:not([aria-label]), th:not([scope])').length"
says 'without alt 0'
for width in 1280 360; do
    ask Emulation.setDeviceMetricsOverride "{\"width\":$width,\"height\":900,\"deviceScaleFactor\":1,\"mobile\":false}"
    evaluate "'wide ' + document.documentElement.scrollWidth"
    [[ $answer =~ wide\ ([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -le $width ] || { echo "at $width pixels: $answer" >&2; exit 1; }
done
if [ $# -gt 2 ]; then
    ask Emulation.setDeviceMetricsOverride '{"width":1280,"height":900,"deviceScaleFactor":1,"mobile":false}'
    open_page "$page"
    evaluate "new Promise(r => setTimeout(() => { document.getElementById('next').click(); setTimeout(() => r(''), 500); }, 700))"
    ask Page.captureScreenshot '{"format":"png","captureBeyondViewport":true}'
    field data | base64 -d > "$3"
fi
[ $# -eq 1 ] || { echo ok; exit 0; }

echo "# a broken clip, a missing one, an empty cell: the check says so"
sed '0,/src="data:video\/mp4;base64,AAAA[A-Za-z0-9+\/]\{60\}/s//src="data:video\/mp4;base64,AAAA/' "$page" > "$dir/broken.html"
! cmp -s "$page" "$dir/broken.html"
open_page "$dir/broken.html"
check
says ' bad=2 full: ' # it does not load by itself, and is not shown
evaluate "'told ' + document.querySelectorAll('.broken .fault').length"
says 'told 1'
sed 's/data-src="data:video\/mp4;base64,[^"]*"/data-src="clips\/full\/nothing.mp4"/' "$page" > "$dir/page/missing.html"
open_page "$dir/page/missing.html"
check
says ' bad=3 full: '
sed '0,/<td>[^<]*</s//<td></' "$page" > "$dir/empty.html"
open_page "$dir/empty.html"
check
says ' bad=1 an empty cell'
echo ok
