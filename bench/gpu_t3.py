# SPDX-License-Identifier: Apache-2.0
"""T3's attention written in PyTorch, with its best scaled-dot-product attention, for bench/gpu.sh: windows of a layer are
gathered, attended as a batch, and scattered back; close and remote, each once where they are the same. Blocks must divide
the axes, as the published table's do.

usage: gpu_t3.py T,H,W HEADS DIM t,h,w      prints milliseconds of one layer (median of 7, CUDA events; above a second the one after the first)"""
import sys

import torch
import torch.nn.functional as F


def windows(x, grid, n, remote):
    """[tokens, heads, dim] -> [windows, heads, tokens of a window, dim]."""
    (T, H, W), (a, b, c) = grid, n
    heads, dim = x.shape[1:]
    if remote:  # token x belongs to block x mod n
        x = x.view(T // a, a, H // b, b, W // c, c, heads, dim).permute(1, 3, 5, 6, 0, 2, 4, 7)
    else:
        x = x.view(a, T // a, b, H // b, c, W // c, heads, dim).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return x.reshape(a * b * c, heads, T * H * W // (a * b * c), dim)


def back(x, grid, n, remote):
    (T, H, W), (a, b, c) = grid, n
    heads, dim = x.shape[1], x.shape[3]
    x = x.view(a, b, c, heads, T // a, H // b, W // c, dim)
    x = x.permute(4, 0, 5, 1, 6, 2, 3, 7) if remote else x.permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.reshape(T * H * W, heads, dim)


def attend(q, k, v, grid, n):
    same = all(p == 1 or p == g for p, g in zip(n, grid))
    out = None
    for remote in (False,) if same else (False, True):
        w = [windows(t, grid, n, remote) for t in (q, k, v)]
        o = torch.cat([F.scaled_dot_product_attention(*(t[i : i + 64] for t in w)) for i in range(0, w[0].shape[0], 64)])
        o = back(o, grid, n, remote)
        out = o if out is None else (out + o) / 2
    return out


def main():
    grid, n = (tuple(int(i) for i in s.split(",")) for s in (sys.argv[1], sys.argv[4]))
    heads, dim = int(sys.argv[2]), int(sys.argv[3])
    tokens = grid[0] * grid[1] * grid[2]
    if any(g % p for g, p in zip(grid, n)):
        sys.exit("gpu_t3.py: the blocks must divide the axes")
    q, k, v = (torch.randn(tokens, heads, dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    times = []
    for i in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        attend(q, k, v, grid, n)
        end.record()
        torch.cuda.synchronize()
        ms = start.elapsed_time(end)
        slow = ms > 1000
        if i > 1 or (slow and i):
            times.append(ms)
        if slow and i:
            break
    print(f"{sorted(times)[len(times) // 2]:.3f}")


main()
