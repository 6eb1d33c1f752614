# SPDX-License-Identifier: Apache-2.0
"""Writes hybrid.safetensors: hybrid attention by its formula, with autograd's gradients (needs PyTorch; made with 1.13.1).

For each case: q, k, v, dout [N, heads, dim], the feature maps' tensors, and what t3v attend gives of them: out and the
gradients of sum(out * dout). Computed in double, stored in f32."""
import json
import pathlib
import struct

import torch
import torch.nn.functional as F

N, HEADS, DIM = 30, 2, 8
CASES = {  # rate, depth, degree, last, shift
    "row": (4, 2, 2, "softplus", "row"),
    "none": (3, 2, 2, "softplus", "none"),
    "linear": (0, 1, 3, "elu", "row"),
    "deep": (2, 3, 1, "relu", "row"),
}
LAST = {"softplus": F.softplus, "relu": lambda u: F.relu(u) + 1e-6, "elu": lambda u: 1 + F.elu(u)}


def phi(x, layers, degree, last):
    """x [N, heads, dim] -> [N, heads, degree * dim]; layers: pairs of weight [heads, out, in] and bias [heads, out]."""
    for i, (w, b) in enumerate(layers):
        x = torch.einsum("nhi,hoi->nho", F.silu(x) if i else x, w) + b
    return torch.cat([part ** (p + 1) for p, part in enumerate(LAST[last](x).chunk(degree, -1))], -1)


def hybrid(q, k, v, maps, rate, degree, last, shift):
    keys = torch.arange(N)
    anchor = keys % rate == 0 if rate else torch.zeros(N, dtype=torch.bool)
    fq, fk = phi(q, maps["q"], degree, last), phi(k[~anchor], maps["k"], degree, last)
    weight = torch.einsum("nhf,mhf->hnm", fq, fk)
    value = v[~anchor]
    if anchor.any():
        s = torch.einsum("nhd,mhd->hnm", q, k[anchor]) / DIM ** 0.5
        c = s.amax(-1, keepdim=True) if shift == "row" else 0
        weight, value = torch.cat([torch.exp(s - c), weight], -1), torch.cat([v[anchor], value])
    return torch.einsum("hnm,mhd->nhd", weight / weight.sum(-1, keepdim=True), value)


def main():
    tensors, plans = {}, {}
    for number, (name, (rate, depth, degree, last, shift)) in enumerate(CASES.items()):
        g = torch.Generator().manual_seed(number)
        draw = lambda *shape: torch.randn(*shape, generator=g).double().requires_grad_()
        q, k, v = draw(N, HEADS, DIM), draw(N, HEADS, DIM), draw(N, HEADS, DIM)
        dout, wide = torch.randn(N, HEADS, DIM, generator=g).double(), degree * DIM
        maps, own = {}, {}
        for m in "qk":
            maps[m] = []
            for i in range(depth):
                inputs = wide if i else DIM
                w = (torch.randn(HEADS, wide, inputs, generator=g).double() / inputs ** 0.5).float().double().requires_grad_()
                b = (0.1 * torch.randn(HEADS, wide, generator=g)).double().requires_grad_()
                maps[m].append((w, b))
                own[f"phi_{m}.{i}.weight"], own[f"phi_{m}.{i}.bias"] = w, b
        out = hybrid(q, k, v, maps, rate, degree, last, shift)
        inputs = {"q": q, "k": k, "v": v, **own}
        grads = torch.autograd.grad((out * dout).sum(), list(inputs.values()))
        found = {"dout": dout, "out": out, **inputs, **{f"d{n}": d for n, d in zip(inputs, grads)}}
        tensors.update({f"{name}/{n}": t.detach().float() for n, t in found.items()})
        plans[name] = f"hybrid:rate={rate},depth={depth},degree={degree},last={last},shift={shift}"
    header, at = {"__metadata__": plans}, 0
    for n, t in tensors.items():
        header[n] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + 4 * t.numel()]}
        at += 4 * t.numel()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(__file__).with_name("hybrid.safetensors")
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t.contiguous().numpy().tobytes() for t in tensors.values()))


main()
