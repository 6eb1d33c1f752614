#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws training logs (log.jsonl of t3v train) as one SVG: steps of all logs in a row, logarithmic loss.

    tools/plot_log.py [--key loss] [--window 50] [--title TEXT] -o OUT.svg LABEL=log.jsonl ...
"""
import argparse
import json
import math
from xml.sax.saxutils import escape

COLOURS = ["#1f6fb4", "#d1495b", "#2e8b57", "#8a5fbf", "#c77d0a", "#3b3b3b"]
W, H, LEFT, RIGHT, TOP, BOTTOM = 860, 360, 64, 16, 40, 44


def mean_of(values, window):
    out, total = [], 0.0
    for i, v in enumerate(values):
        total += v
        if i >= window:
            total -= values[i - window]
        out.append(total / min(i + 1, window))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--key", default="loss")
    p.add_argument("--window", type=int, default=50)
    p.add_argument("--title", default="")
    p.add_argument("-o", required=True)
    p.add_argument("logs", nargs="+", metavar="LABEL=FILE")
    a = p.parse_args()
    runs, start = [], 0
    for spec in a.logs:
        label, path = spec.split("=", 1)
        lines = [json.loads(s) for s in open(path, encoding="utf-8")]
        values = mean_of([r[a.key] for r in lines], a.window)
        runs.append((label, start, values))
        start += len(values)
    low, high = (f(min(v), max(v)) for f, v in ((min, runs[0][2]), (max, runs[0][2])))
    for _, _, v in runs:
        low, high = min(low, min(v)), max(high, max(v))
    y0, y1 = math.log10(low) - 0.03, math.log10(high) + 0.03
    x = lambda step: LEFT + (W - LEFT - RIGHT) * step / max(start, 1)
    y = lambda v: TOP + (H - TOP - BOTTOM) * (y1 - math.log10(v)) / (y1 - y0)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
           f'<rect width="{W}" height="{H}" fill="white"/>', f'<text x="{LEFT}" y="20" font-size="14">{escape(a.title)}</text>']
    for e in range(math.floor(y0), math.ceil(y1) + 1):
        for m in (1, 2, 5):
            v = m * 10.0 ** e
            if y0 <= math.log10(v) <= y1:
                out.append(f'<path d="M{LEFT} {y(v):.1f}H{W - RIGHT}" stroke="#ddd"/>'
                           f'<text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>')
    tick = max(1, 10 ** int(math.log10(max(start, 10))) // 2)
    for step in range(0, start + 1, tick):
        out.append(f'<text x="{x(step):.1f}" y="{H - BOTTOM + 18}" text-anchor="middle">{step}</text>')
    out.append(f'<text x="{(LEFT + W - RIGHT) / 2}" y="{H - 8}" text-anchor="middle">step</text>')
    for i, (label, first, values) in enumerate(runs):
        colour, stride = COLOURS[i % len(COLOURS)], max(1, len(values) // 600)
        points = " ".join(f"{x(first + j):.1f},{y(values[j]):.1f}" for j in range(0, len(values), stride))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
                   f'<text x="{W - RIGHT}" y="{TOP + 16 * i + 4}" text-anchor="end" fill="{colour}">{escape(label)}</text>')
    out.append("</svg>\n")
    open(a.o, "w", encoding="utf-8").write("\n".join(out))


main()
