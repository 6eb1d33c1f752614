# SPDX-License-Identifier: Apache-2.0
"""T3's attention written in PyTorch, for bench/gpu.sh: windows of a layer are gathered, attended as a batch, and scattered
back; close and remote, each once where they are the same. Of PyTorch's own kernels for attention the fastest one counts.
Blocks must divide the axes, as the published table's do.

usage: gpu_t3.py T,H,W HEADS DIM t,h,w...      prints a line for each of the last: itself, the milliseconds of one layer
(CUDA events; the median of 5, above 0.3 s of one run), and the kernels that took them"""
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
WINDOWS = 64  # at a time


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
        parts = range(0, w[0].shape[0], WINDOWS)
        o = torch.cat([F.scaled_dot_product_attention(*(t[i : i + WINDOWS] for t in w)) for i in parts])
        o = back(o, grid, n, remote)
        out = o if out is None else (out + o) / 2
    return out


def milliseconds(backend, *args):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with sdpa_kernel(backend):
        start.record()
        attend(*args)
        end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def measure(name, *args):
    """The median of 5 runs behind a first one; where that took long, the next one alone."""
    runs = 1 if milliseconds(BACKENDS[name], *args) > 300 else 5
    return sorted(milliseconds(BACKENDS[name], *args) for _ in range(runs))[runs // 2]


def fastest(names, *args):
    """The least milliseconds and whose they are; what has no kernel here is left out. None: nothing has."""
    found = []
    for name in names:
        try:
            found.append((measure(name, *args), name))
        except RuntimeError as e:
            print(f"gpu_t3.py: no {name}: {str(e).splitlines()[0]}", file=sys.stderr)
    return min(found, default=None)


def main():
    grid, *kinds = (tuple(int(i) for i in s.split(",")) for s in (sys.argv[1], *sys.argv[4:]))
    heads, dim = int(sys.argv[2]), int(sys.argv[3])
    tokens = grid[0] * grid[1] * grid[2]
    if any(g % p for n in kinds for g, p in zip(grid, n)):
        sys.exit("gpu_t3.py: the blocks must divide the axes")
    q, k, v = (torch.randn(tokens, heads, dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    frame = q[: grid[1] * grid[2]]
    for n in kinds:
        if n == (1, 1, 1):  # seconds: once, by what is fastest for one frame
            found = fastest(BACKENDS, frame, frame, frame, (1, grid[1], grid[2]), n)
            if found:
                found = milliseconds(BACKENDS[found[1]], q, k, v, grid, n), found[1]
        else:
            found = fastest(BACKENDS, q, k, v, grid, n)
        if not found:
            sys.exit("gpu_t3.py: PyTorch has no fused attention here")
        print(",".join(map(str, n)), f"{found[0]:.3f}", found[1], flush=True)


main()
