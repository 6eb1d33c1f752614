#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seconds of a training step in PyTorch: the Wan2.1 DiT written from its description as one would write it in PyTorch, a
batch in one tensor, flow-matching loss, clipping, AdamW. For bench/train_speed.sh; needs PyTorch (measured with 1.13).

    bench/train_torch.py --model models/starter-128 --size 128x128 --frames 17 --batch 8 --steps 6 [--bf16] [--threads N]
"""
import argparse
import json
import math
import pathlib
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def rope(grid, dim):
    """Angles [tokens, dim / 2]: the pairs of a head are shared by time, height and width."""
    pairs = dim // 2
    parts = [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]
    axes = []
    for axis, n in enumerate(parts):
        at = torch.arange(grid[axis]).double()[:, None] * 10000 ** (-torch.arange(n).double() / n)
        shape = [1, 1, 1, n]
        shape[axis] = grid[axis]
        axes.append(at.reshape(shape).expand(*grid, n))
    return torch.polar(torch.ones(()).double(), torch.cat(axes, -1).reshape(-1, pairs)).to(torch.complex64)


def rotate(x, angles):
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * angles).flatten(-2).to(x.dtype)


class RMS(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMS(dim), RMS(dim)

    def forward(self, x, context, angles=None):
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        scores = torch.matmul(q, k.transpose(-2, -1)) * (1 / math.sqrt(q.shape[-1]))
        o = torch.matmul(torch.softmax(scores, -1).to(v.dtype), v)
        return self.o(o.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim, ffn, heads):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim ** 0.5)
        self.norm3 = nn.LayerNorm(dim, 1e-6)
        self.self_attn, self.cross_attn = Attention(dim, heads), Attention(dim, heads)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, dim))

    def forward(self, x, e0, context, angles):
        m = (self.modulation + e0).unbind(1)
        dim = x.shape[-1:]
        a = F.layer_norm(x, dim, eps=1e-6) * (1 + m[1][:, None]) + m[0][:, None]
        x = x + self.self_attn(a, a, angles) * m[2][:, None]
        x = x + self.cross_attn(self.norm3(x), context)
        b = F.layer_norm(x, dim, eps=1e-6) * (1 + m[4][:, None]) + m[3][:, None]
        return x + self.ffn(b) * m[5][:, None]


class Model(nn.Module):
    def __init__(self, c, text_dim):
        super().__init__()
        dim, self.out = c["dim"], c.get("out_dim", 16)
        self.freq = c.get("freq_dim", 256)
        self.patch = nn.Linear(c.get("in_dim", 16) * 4, dim)
        self.text = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time = nn.Sequential(nn.Linear(self.freq, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.project = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, c["ffn_dim"], c["num_heads"]) for _ in range(c["num_layers"]))
        self.head_modulation = nn.Parameter(torch.randn(1, 2, dim) / dim ** 0.5)
        self.head = nn.Linear(dim, 4 * self.out)

    def forward(self, x, t, context, angles):
        n, c, f, h, w = x.shape
        x = x.reshape(n, c, f, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(n, f * h * w // 4, c * 4)
        x = self.patch(x)
        at = t[:, None].double() * 10000 ** (-torch.arange(self.freq // 2).double() / (self.freq // 2))
        e = self.time(torch.cat([at.cos(), at.sin()], 1).float())
        e0 = self.project(e).unflatten(1, (6, -1))
        context = self.text(context)
        for block in self.blocks:
            x = block(x, e0, context, angles)
        m = (self.head_modulation + e[:, None]).unbind(1)
        x = self.head(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + m[1][:, None]) + m[0][:, None])
        x = x.reshape(n, f, h // 2, w // 2, 2, 2, self.out).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(n, self.out, f, h, w)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=pathlib.Path, required=True)
    p.add_argument("--size", default="128x128")
    p.add_argument("--frames", type=int, default=17)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--text-dim", type=int, default=128)
    p.add_argument("--text-rows", type=int, default=32, help="of a prompt; the official code has 512")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--bf16", action="store_true", help="products under autocast")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    width, height = (int(v) for v in a.size.split("x"))
    model = Model(json.loads((a.model / "config.json").read_text()), a.text_dim)
    weights = sum(q.numel() for q in model.parameters())
    shape = (a.batch, 16, (a.frames - 1) // 4 + 1, height // 8, width // 8)
    heads = model.blocks[0].self_attn
    angles = rope((shape[2], shape[3] // 2, shape[4] // 2), heads.q.weight.shape[0] // heads.heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    seconds = []
    for _ in range(a.steps):
        x0, eps, u = torch.randn(shape), torch.randn(shape), torch.rand(a.batch)
        context = torch.randn(a.batch, a.text_rows, a.text_dim)
        begin = time.perf_counter()
        s = (3 * u / (1 + 2 * u)).reshape(-1, 1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=a.bf16):
            v = model((1 - s) * x0 + s * eps, 1000 * s.flatten(), context, angles)
        loss = (v.float() - (eps - x0)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"what": "torch", "version": torch.__version__, "type": "bf16" if a.bf16 else "f32", "weights": weights,
                      "size": a.size, "frames": a.frames, "batch": a.batch, "threads": a.threads, "loss": round(loss.item(), 3),
                      "seconds_a_step": round(statistics.median(seconds[1:]), 4)}))


main()
