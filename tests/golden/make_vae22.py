# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/vae22.safetensors: what the official Wan2.2 VAE computes with tiny widths, weights and inputs by
tests/golden/formula.py.

    /usr/bin/python3 tests/golden/make_vae22.py WAN22_CHECKOUT [OUT]

WAN22_CHECKOUT is Wan-Video/Wan2.2. All in f32 and by one thread."""
import importlib
import os
import sys

import torch
import torch.nn.functional as F

import formula
import official


def load(wan):
    F.scaled_dot_product_attention = official.softmax_attention
    official.module('einops', rearrange=official.rearrange)
    official.package('wan', f'{wan}/wan')
    official.package('wan.modules', f'{wan}/wan/modules')
    return importlib.import_module('wan.modules.vae2_2')


def main():
    out = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(os.path.abspath(__file__)), 'vae22.safetensors')
    torch.set_num_threads(1)
    code = load(sys.argv[1])
    vae = code.WanVAE_(dim=4, dec_dim=6, z_dim=48, temperal_downsample=[False, True, True])
    formula.fill(vae)
    code._video_vae = lambda **unused: torch.nn.Identity()
    scale = code.Wan2_2_VAE(device='cpu').scale
    encode = lambda x: vae.encode(x[None], scale)[0]
    decode = lambda z: vae.decode(z[None], scale)[0]
    t = {}
    with torch.no_grad():
        video = formula.tensor('video', 3, 13, 48, 80)
        t['latent'] = encode(video)
        for frames in (1, 5, 9):  # what comes later changes nothing
            assert torch.allclose(encode(video[:, :frames]), t['latent'][:, :(frames + 3) // 4], atol=1e-5)
        t['decoded'] = decode(formula.tensor('random', 48, 4, 2, 2))
        t['decoded_one'] = decode(formula.tensor('random_one', 48, 1, 3, 5))
        print('decoded: standard deviation %.3f' % t['decoded'].std())
    clip = formula.tensor('clip', 3, 9, 32, 32)
    loss = ((decode(encode(clip)) - clip) ** 2).mean()
    loss.backward()
    t['loss'] = loss.reshape(1)
    for name, p in vae.named_parameters():
        t[f'norm.{name}'] = p.grad.double().norm().float().reshape(1)
    for name in ('conv1.weight', 'encoder.downsamples.1.downsamples.2.time_conv.weight', 'encoder.conv1.weight',
                 'decoder.upsamples.2.upsamples.3.resample.1.weight', 'decoder.head.2.weight'):
        t[f'grad.{name}'] = dict(vae.named_parameters())[name].grad.flatten()[:256]
    official.save(out, t, widths='4, 6', loss='mean((decode(encode(clip)) - clip)^2), no sampling, no clamp')


if __name__ == '__main__':
    main()
