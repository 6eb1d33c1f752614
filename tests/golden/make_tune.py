# SPDX-License-Identifier: Apache-2.0
"""Writes tune.safetensors: the gradient of whole tuning steps on the tiny model, by autograd in double (needs PyTorch; made with 1.13.1).

The model here is written from its description, in this file alone; it is first held against wan/t3.safetensors, which the
official code made. A step is the mean loss of two samples at noise levels of their own: latent, noise and context in,
x = (1 - s) x0 + s eps, target eps - x0 mixed with a teacher's velocity, DiffSynth's weight, and the teacher's attention."""
import json
import math
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).parent
TINY = HERE / "wan" / "tiny"
LAYERS, DIM, HEADS, TEXT_LEN, EPS = 5, 64, 2, 512, 1e-6
HEAD = DIM // HEADS
GRID, SHIFT, TEACH, TEACH_LAYERS = (2, 3, 4), 3.0, 0.25, 2.0
BLOCKS = [(2, 1, 1), (1, 3, 2), (1, 2, 4)]
RATE, DEPTH, DEGREE = 4, 1, 2
RANK, ALPHA, TARGETS = 3, 6.0, ("self_attn.q", "v", "ffn.0")
SAMPLES = [(0.35, 7, 5, 4), (0.8, 7, 6, 3)]  # u, seed and stream of the noise, rows of the context


def load(path):
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    header, meta = json.loads(raw[8:8 + size]), {}
    out = {}
    for name, e in header.items():
        if name == "__metadata__":
            meta = e
            continue
        a, b = e["data_offsets"]
        assert e["dtype"] == "F32", name
        out[name] = torch.from_numpy(np.frombuffer(raw[8 + size + a:8 + size + b], np.float32).reshape(e["shape"]).copy()).double()
    return out, meta


# ---- attention ----

def partition(grid, counts, remote):
    """The block of each token: of G positions on an axis cut in n, x is in the last block that begins at or before it
    (floor(a G / n)), or in block x mod n."""
    ids = torch.zeros(grid, dtype=torch.long)
    for axis, (size, n) in enumerate(zip(grid, counts)):
        x = torch.arange(size)
        starts = torch.tensor([a * size // n for a in range(n)])
        block = x % n if remote else (x[:, None] >= starts[None]).sum(1) - 1
        ids = ids * n + block.reshape([-1 if a == axis else 1 for a in range(3)])
    return ids.flatten()


def softmax_attention(q, k, v, meets=None):
    s = torch.einsum("nhd,mhd->hnm", q, k) / HEAD ** 0.5
    if meets is not None:
        s = s.masked_fill(~meets, -math.inf)
    return torch.einsum("hnm,mhd->nhd", torch.softmax(s, -1), v)


def t3(grid, blocks):
    def attend(layer, q, k, v, own):
        groups = [partition(grid, blocks[layer % len(blocks)], remote) for remote in (False, True)]
        return sum(softmax_attention(q, k, v, g[:, None] == g[None]) for g in groups) / 2
    return attend


def full(layer, q, k, v, own):
    return softmax_attention(q, k, v)


def hybrid(layer, q, k, v, own):
    def phi(x, m):
        for i in range(DEPTH):
            x = F.silu(x) if i else x
            x = torch.einsum("nhi,hoi->nho", x, own[f"phi_{m}.{i}.weight"]) + own[f"phi_{m}.{i}.bias"]
        return torch.cat([part ** (p + 1) for p, part in enumerate(F.softplus(x).chunk(DEGREE, -1))], -1)
    soft = torch.arange(len(k)) % RATE == 0
    s = torch.einsum("nhd,mhd->hnm", q, k[soft]) / HEAD ** 0.5
    near = torch.exp(s - s.amax(-1, keepdim=True))
    far = torch.einsum("nhf,mhf->hnm", phi(q, "q"), phi(k[~soft], "k"))
    weight = torch.cat([near, far], -1)
    return torch.einsum("hnm,mhd->nhd", weight / weight.sum(-1, keepdim=True), torch.cat([v[soft], v[~soft]]))


# ---- the model ----

def rms(x, gain):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * gain


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def angles(grid):
    """[tokens, 1, HEAD / 2]: of time first, then height and width; a third of the pairs each, time gets what is left."""
    third = 2 * (HEAD // 6)
    axes = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    parts = [axis.reshape(-1, 1).double() * 10000.0 ** (-torch.arange(0, d, 2).double() / d)
             for axis, d in zip(axes, (HEAD - 2 * third, third, third))]
    return torch.cat(parts, 1)[:, None]


def rotate(x, angle):
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous()) * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(z).flatten(-2)


class Model:
    """weights by name; updates: name of a layer -> (A, B), added as ALPHA / RANK B A."""

    def __init__(self, weights, updates=None):
        self.w, self.updates = weights, updates or {}

    def linear(self, name, x):
        w = self.w[name + ".weight"].reshape(len(self.w[name + ".weight"]), -1)
        y = x @ w.T + self.w[name + ".bias"]
        if name in self.updates:
            a, b = self.updates[name]
            y = y + ALPHA / RANK * (x @ a.T) @ b.T
        return y

    def heads(self, name, x, normed=True):
        y = self.linear(name, x)
        if normed:
            site, part = name.rsplit(".", 1)
            y = rms(y, self.w[f"{site}.norm_{part}.weight"])
        return y.reshape(-1, HEADS, HEAD)

    def __call__(self, latent, context, timestep, attend):
        """The velocity, and what self-attention of each layer gives before its output projection."""
        c, t, h, w = latent.shape
        grid = (t, h // 2, w // 2)
        half = torch.arange(128).double()
        turn = timestep * 10000.0 ** (-half / 128)
        e = self.linear("time_embedding.0", torch.cat([turn.cos(), turn.sin()])[None])
        e = self.linear("time_embedding.2", F.silu(e))
        e0 = self.linear("time_projection.1", F.silu(e)).reshape(6, DIM)
        text = torch.cat([context, context.new_zeros(TEXT_LEN - len(context), context.shape[1])])
        text = self.linear("text_embedding.2", F.gelu(self.linear("text_embedding.0", text), approximate="tanh"))
        x = latent.reshape(c, t, h // 2, 2, w // 2, 2).permute(1, 2, 4, 0, 3, 5).reshape(-1, 4 * c)
        x = self.linear("patch_embedding", x)
        angle, seen = angles(grid), []
        for i in range(LAYERS):
            b = f"blocks.{i}"
            m = self.w[b + ".modulation"][0] + e0
            y = norm(x) * (1 + m[1]) + m[0]
            q, k = (rotate(self.heads(f"{b}.self_attn.{p}", y), angle) for p in "qk")
            own = {n[len(b) + 11:]: p for n, p in self.w.items() if n.startswith(b + ".self_attn.phi_")}
            y = attend(i, q, k, self.heads(f"{b}.self_attn.v", y, False), own).flatten(1)
            seen.append(y)
            x = x + self.linear(f"{b}.self_attn.o", y) * m[2]
            y = norm(x) * self.w[b + ".norm3.weight"] + self.w[b + ".norm3.bias"]
            q, k = self.heads(f"{b}.cross_attn.q", y), self.heads(f"{b}.cross_attn.k", text)
            y = softmax_attention(q, k, self.heads(f"{b}.cross_attn.v", text, False)).flatten(1)
            x = x + self.linear(f"{b}.cross_attn.o", y)
            y = norm(x) * (1 + m[4]) + m[3]
            x = x + self.linear(f"{b}.ffn.2", F.gelu(self.linear(f"{b}.ffn.0", y), approximate="tanh")) * m[5]
        m = self.w["head.modulation"][0] + e
        x = self.linear("head.head", norm(x) * (1 + m[1]) + m[0])
        return x.reshape(*grid, 2, 2, c).permute(5, 0, 1, 3, 2, 4).reshape(latent.shape), seen


# ---- the step ----

def normals(n, seed, stream):
    """Philox4x32-10 (Salmon et al., SC 2011) at counters 0, 1, ... of (seed, stream); Box-Muller on pairs of words."""
    out, mask = [], 0xFFFFFFFF
    for block in range((n + 3) // 4):
        c = [block & mask, block >> 32, stream & mask, stream >> 32]
        k = [seed & mask, seed >> 32]
        for _ in range(10):
            a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
        for x, y in (c[:2], c[2:]):
            r = math.sqrt(-2 * math.log((x + 1) / 2 ** 32))
            out += [r * math.cos(2 * math.pi * (y + 0.5) / 2 ** 32), r * math.sin(2 * math.pi * (y + 0.5) / 2 ** 32)]
    return torch.tensor(np.array(out[:n], np.float32)).double()


def sigma_of(u):
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def weight_of(timestep):
    bell = lambda t: math.exp(-2 * ((t - 500) / 1000) ** 2)
    all_of = [bell(1000 * sigma_of(1 - i / 1000)) for i in range(1000)]
    return (bell(timestep) - min(all_of)) / (sum(all_of) / 1000 - min(all_of))


def step_loss(model, teacher, attend, samples):
    loss = 0
    for (u, seed, stream, _), x0, context in samples:
        s = sigma_of(u)
        eps = normals(x0.numel(), seed, stream).reshape(x0.shape)
        x = (1 - s) * x0 + s * eps
        with torch.no_grad():
            theirs, their_attention = teacher(x, context, 1000 * s, full)
        target = (1 - TEACH) * (eps - x0) + TEACH * theirs
        v, attention = model(x, context, 1000 * s, attend)
        far = sum(((a - b) ** 2).mean() for a, b in zip(attention, their_attention)) / LAYERS
        loss = loss + (weight_of(1000 * s) * ((v - target) ** 2).mean() + TEACH_LAYERS * far) / len(samples)
    return loss


def check(weights):
    f, meta = load(HERE / "wan" / "t3.safetensors")
    blocks = [tuple(map(int, b.split("x"))) for b in meta["plan"].split("=")[1].split("/")]
    latent = f["latent"]
    grid = (latent.shape[1], latent.shape[2] // 2, latent.shape[3] // 2)
    v, _ = Model(weights)(latent, f["context"], float(meta["timestep"]), t3(grid, blocks))
    far = float((v - f["velocity"]).norm() / f["velocity"].norm())
    print(f"from the official code: {far:.1e}")
    assert far < 1e-5


def main():
    weights, _ = load(TINY / "diffusion_pytorch_model.safetensors")
    check(weights)
    draw = torch.Generator().manual_seed(17)
    randn = lambda *shape: torch.randn(*shape, generator=draw).float()
    out, samples = {}, []
    for i, sample in enumerate(SAMPLES):
        x0 = randn(16, GRID[0], 2 * GRID[1], 2 * GRID[2]).bfloat16().float()
        context = randn(sample[3], 32)
        out[f"x0/{i}"], out[f"context/{i}"] = x0, context
        samples.append((sample, x0.double(), context.double()))

    def gradients(case, model, attend, trained, whole):
        loss = step_loss(model, Model(weights), attend, samples)
        out[f"{case}/loss"] = loss.detach().float().reshape(1)
        for (name, p), g in zip(trained.items(), torch.autograd.grad(loss, list(trained.values()))):
            assert float(g.norm()) > 0, name
            if whole(name):
                out[f"{case}/grad/{name}"] = g.float()
            else:
                out[f"{case}/norm/{name}"] = g.norm().float().reshape(1)
        print(case, float(loss), len(trained))

    attend = t3(GRID, BLOCKS)
    trained = {n: p.clone().requires_grad_() for n, p in weights.items()}
    some = ("blocks.0.self_attn", "blocks.3.cross_attn.k", "blocks.4.ffn.2", "modulation", "patch_embedding", "head")
    gradients("full", Model(trained), attend, trained, lambda n: any(s in n for s in some))

    factors, updates = {}, {}
    for name, p in weights.items():
        layer = name[:-len(".weight")]
        if p.dim() != 2 or not name.endswith(".weight") or not any(layer.endswith("." + t) for t in TARGETS):
            continue
        a, b = 0.2 * randn(RANK, p.shape[1]), 0.2 * randn(p.shape[0], RANK)
        for part, value in (("A", a), ("B", b)):
            out[f"lora/value/{layer}.lora_{part}.weight"] = value
            factors[f"{layer}.lora_{part}.weight"] = value.double().requires_grad_()
        updates[layer] = (factors[f"{layer}.lora_A.weight"], factors[f"{layer}.lora_B.weight"])
    gradients("lora", Model(weights, updates), attend, factors, lambda n: True)

    own = {}
    for i in range(LAYERS):
        for m in "qk":
            for j in range(DEPTH):
                wide = DEGREE * HEAD
                for part, value in (("weight", randn(HEADS, wide, wide if j else HEAD) / HEAD ** 0.5), ("bias", 0.1 * randn(HEADS, wide))):
                    name = f"blocks.{i}.self_attn.phi_{m}.{j}.{part}"
                    out[f"own/value/{name}"] = value
                    own[name] = value.double().requires_grad_()
    gradients("own", Model({**weights, **own}), hybrid, own, lambda n: True)

    counts = "/".join("x".join(map(str, b)) for b in BLOCKS)
    meta = {"full": f"t3:blocks={counts}", "lora": f"t3:blocks={counts}",
            "own": f"hybrid:rate={RATE},depth={DEPTH},degree={DEGREE},last=softplus,shift=row",
            "samples": " ".join(f"{u} {seed} {stream}" for u, seed, stream, _ in SAMPLES),
            "shift": str(SHIFT), "teach": str(TEACH), "teach_layers": str(TEACH_LAYERS), "targets": ",".join(TARGETS),
            "rank": str(RANK), "alpha": str(ALPHA)}
    header, at = {"__metadata__": meta}, 0
    for n, t in out.items():
        header[n] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + 4 * t.numel()]}
        at += 4 * t.numel()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (HERE / "tune.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(t.contiguous().numpy().tobytes() for t in out.values()))


main()
