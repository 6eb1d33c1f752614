#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds T3V's transformer against a peer program's (stable-diffusion.cpp when this was written): both get the same file
of weights, latent, timestep and context, and this prints how far their velocities are apart. Needs NumPy.

    bench/peer_velocity.py weights FILE.safetensors        gives a random model's biases and gains random values, in place
    bench/peer_velocity.py compare PEER DIR FILE...        runs both on each FILE (safetensors or GGUF of a Wan2.1 T2V DiT)

`t3v init` leaves biases 0 and gains 1: an implementation that forgets them would pass. `weights` gives biases a standard
deviation of 0.1, gains one of 0.1 around 1, and those of the norms of queries and keys around 1.5, so that attention
prefers some keys (logits with a standard deviation of 2.2).

PEER is a program made with the peer's library, as bench/peer_sdcpp.sh's, called as
    PEER velocity FILE W H T THREADS FLASH TIMESTEP LATENT CONTEXT OUT
It reads raw little-endian float32, LATENT [16,T,H,W] and CONTEXT [512,4096], runs the transformer once (FLASH 1: fused
attention, 0: plain) and writes the velocity [16,T,H,W] to OUT in the same form. DIR gets the inputs and both outputs.

Distances are |a - b| / |b| and the greatest difference over the greatest value. How far T3V's velocities in two precisions
are apart, and how far one moves when the timestep does (by --step, for the first FILE), says what they mean."""
import argparse
import json
import os
import struct
import subprocess

import numpy as np


def spread(name):
    """Mean and standard deviation of a bias or gain of that name; None: stays as it is."""
    if name.endswith('.bias'):
        return 0.0, 0.1
    if name.endswith(('norm_q.weight', 'norm_k.weight')):
        return 1.5, 0.15
    if name.endswith('norm3.weight'):
        return 1.0, 0.1
    return None


def weights(path):
    rng = np.random.default_rng(1)
    with open(path, 'r+b') as f:
        size, = struct.unpack('<Q', f.read(8))
        header = json.loads(f.read(size))
        changed = 0
        for name in sorted(header):
            if name == '__metadata__' or not spread(name):
                continue
            mean, sd = spread(name)
            entry = header[name]
            x = (mean + sd * rng.standard_normal(entry['shape'])).astype('<f4')
            if entry['dtype'] == 'BF16':  # to the nearest, ties to even
                bits = x.view('<u4').astype(np.uint64)
                data = ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype('<u2').tobytes()
            elif entry['dtype'] == 'F32':
                data = x.tobytes()
            else:
                raise SystemExit(f'peer_velocity: {name}: {entry["dtype"]}, expected F32 or BF16')
            begin, end = entry['data_offsets']
            assert end - begin == len(data), name
            f.seek(8 + size + begin)
            f.write(data)
            changed += 1
    print(f'{changed} tensors of {path} have random values')


def save(path, name, x):
    """One tensor of float32 as a safetensors file."""
    header = json.dumps({name: {'dtype': 'F32', 'shape': x.shape, 'data_offsets': [0, x.nbytes]}}).encode()
    header += b' ' * (-len(header) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(header)) + header + x.astype('<f4').tobytes())


def load(path):
    """The only tensor of a safetensors file of float32."""
    with open(path, 'rb') as f:
        size, = struct.unpack('<Q', f.read(8))
        (entry,) = (v for k, v in json.loads(f.read(size)).items() if k != '__metadata__')
        return np.frombuffer(f.read(), '<f4').reshape(entry['shape'])


def distance(a, b):
    """|a - b| / |b| and the greatest difference over the greatest value of b."""
    a, b = a.astype('f8'), b.astype('f8')
    return np.linalg.norm(a - b) / np.linalg.norm(b), np.abs(a - b).max() / np.abs(b).max()


def compare(o):
    os.makedirs(o.dir, exist_ok=True)
    at = lambda name: os.path.join(o.dir, name)
    rng = np.random.default_rng(o.seed)
    shape = (16, *o.grid)
    latent = rng.standard_normal(shape).astype('<f4')
    context = np.zeros((512, 4096), '<f4')
    context[:o.rows] = rng.standard_normal((o.rows, 4096))
    for name, x in (('latent', latent), ('context', context)):
        x.tofile(at(name + '.f32'))
        save(at(name + '.safetensors'), name, x)

    def ours(path, precision, timestep):
        subprocess.run([o.t3v, 'dit', '--model', path, '--plan', 'full', '--latent', at('latent.safetensors'), '--context',
                        at('context.safetensors'), '--timestep', str(timestep), '--precision', precision, '--quiet', '-o',
                        at('ours.safetensors')], check=True, stdout=subprocess.DEVNULL)
        return load(at('ours.safetensors'))

    def theirs(path, flash):
        subprocess.run([o.peer, 'velocity', path, *map(str, reversed(o.grid)), str(o.threads), str(flash), str(o.timestep),
                        at('latent.f32'), at('context.f32'), at('peer.f32')], check=True, stdout=subprocess.DEVNULL)
        return np.fromfile(at('peer.f32'), '<f4').reshape(shape)

    t, h, w = o.grid
    print(f'latent {t}x{h}x{w} ({t * h * w // 4} tokens), timestep {o.timestep:g}, {o.rows} rows of text')
    row = lambda *words, a, b: print('%-24s %-16s %-10s %11.2e %10.2e' % (*words, *distance(a, b)), flush=True)
    print('%-24s %-16s %-10s %11s %10s' % ('weights', 'velocity', 'from', 'relative L2', 'max / max'))
    for i, path in enumerate(o.file):
        name = os.path.basename(path)
        mine = {p: ours(path, p, o.timestep) for p in o.precision}
        for flash in o.flash:
            peer = theirs(path, flash)
            for p in o.precision:
                row(name, 'peer, ' + ('plain', 'fused')[flash], 'T3V ' + p, a=peer, b=mine[p])
        for p in o.precision[1:]:
            row(name, 'T3V ' + p, 'T3V ' + o.precision[0], a=mine[p], b=mine[o.precision[0]])
        if not i:
            moved = ours(path, o.precision[0], o.timestep - o.step)
            row(name, f'T3V, t - {o.step:g}', 'T3V ' + o.precision[0], a=moved, b=mine[o.precision[0]])


def main():
    p = argparse.ArgumentParser(usage=__doc__, add_help=True)
    sub = p.add_subparsers(dest='what', required=True)
    sub.add_parser('weights').add_argument('file')
    c = sub.add_parser('compare')
    c.add_argument('peer')
    c.add_argument('dir')
    c.add_argument('file', nargs='+')
    c.add_argument('--t3v', default='build/t3v')
    c.add_argument('--grid', type=lambda s: tuple(map(int, s.split(','))), default=(3, 32, 60), help='of the latent: T,H,W')
    c.add_argument('--timestep', type=float, default=700)
    c.add_argument('--step', type=float, default=50)
    c.add_argument('--rows', type=int, default=40, help='of text; rows of zeros follow')
    c.add_argument('--seed', type=int, default=1)
    c.add_argument('--precision', type=lambda s: s.split(','), default=['f32', 'bf16'], help='of T3V: f32, bf16 or f32,bf16')
    c.add_argument('--flash', type=lambda s: [int(f) for f in s.split(',')], default=[0, 1], help='of the peer: 0, 1 or 0,1')
    c.add_argument('--threads', type=int, default=2)
    o = p.parse_args()
    weights(o.file) if o.what == 'weights' else compare(o)


if __name__ == '__main__':
    main()
