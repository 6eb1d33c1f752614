# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/families from the official code: tiny DiTs of random weights in the shapes of Wan2.1's
image-to-video model (with CLIP features) and of Wan2.2's TI2V (a timestep for every token), a tiny vision tower of CLIP,
and what they compute.

    /usr/bin/python3 tests/golden/make_families.py WAN21_CHECKOUT WAN22_CHECKOUT T3_CHECKOUT [OUT]

All in f32 and by one thread."""
import importlib
import json
import os
import sys

import torch

import official
from make_wan import TEXT_DIM, randn, randomise
from official import save

SHAPE = dict(dim=32, ffn_dim=48, freq_dim=64, out_dim=16, num_heads=2, num_layers=2, text_len=512, eps=1e-6)
CLIP_DIM = 24


def load_wan22(path):
    """The DiT of Wan-Video/Wan2.2, beside 2.1's under another package name."""
    official.package('wan22', f'{path}/wan')
    official.package('wan22.modules', f'{path}/wan/modules')
    model = importlib.import_module('wan22.modules.model')
    model.flash_attention = official.flash_attention
    return model


def write(dit, folder, **config):
    os.makedirs(folder, exist_ok=True)
    with open(f'{folder}/config.json', 'w') as f:
        json.dump({'_class_name': 'WanModel', **config}, f, indent=2)
        f.write('\n')
    save(f'{folder}/diffusion_pytorch_model.safetensors', dict(dit.named_parameters()), format='pt')


def gradients(dit, v, target, tensors, whole):
    """The norm of every weight's gradient, and those of `whole`."""
    loss = (v - target).pow(2).mean()
    loss.backward()
    tensors.update(target=target, loss=loss.reshape(1))
    for k, p in dit.named_parameters():
        tensors[f'norm.{k}'] = p.grad.double().norm().float().reshape(1)
        if any(w in k for w in whole):
            tensors[f'grad.{k}'] = p.grad


def tokens(latent):
    c, f, h, w = latent.shape
    return f * (h // 2) * (w // 2)


def make_i2v(model, out):
    config = dict(model_type='i2v', in_dim=36, **SHAPE)
    dit = model.WanModel(text_dim=TEXT_DIM, **config)
    dit.img_emb = model.MLPProj(CLIP_DIM, SHAPE['dim'])
    randomise(dit, 61)
    write(dit, f'{out}/i2v', **config)
    x, y = randn(16, 3, 4, 6, seed=62), randn(20, 3, 4, 6, seed=63)
    context, clip = randn(7, TEXT_DIM, seed=64), randn(1, 257, CLIP_DIM, seed=65)
    inputs = [t.clone().requires_grad_() for t in (x, y, context, clip)]
    v = dit([inputs[0]], t=torch.tensor([731]), context=[inputs[2]], seq_len=tokens(x), clip_fea=inputs[3],
            y=[inputs[1]])[0]
    tensors = {'latent': x, 'y': y, 'context': context, 'clip': clip[0], 'velocity': v}
    gradients(dit, v, randn(*x.shape, seed=66), tensors, ('img_emb.proj.0', 'img_emb.proj.1.bias', 'img_emb.proj.4',
                                                          'norm_k_img', 'blocks.1.cross_attn.v_img.weight',
                                                          'blocks.0.cross_attn.q.weight', 'modulation'))
    tensors.update(grad_latent=torch.cat([inputs[0].grad, inputs[1].grad]), grad_context=inputs[2].grad,
                   grad_clip=inputs[3].grad[0])
    save(f'{out}/i2v.safetensors', tensors, timestep=731, loss='mean((velocity - target)^2)')


def make_ti2v(model, out):
    config = dict(model_type='ti2v', in_dim=48, **{**SHAPE, 'out_dim': 48})
    dit = randomise(model.WanModel(text_dim=TEXT_DIM, **config), 71)
    write(dit, f'{out}/ti2v', **config)
    context = randn(7, TEXT_DIM, seed=74)
    tensors = {'context': context}

    def run(x, c, first, t):
        """The first latent frame at `first`, the others at t."""
        f, plane = x.shape[1], tokens(x) // x.shape[1]
        times = torch.tensor([first] * plane + [t] * plane * (f - 1))
        return dit([x], t=times[None], context=[c], seq_len=tokens(x))[0]

    x = randn(48, 3, 4, 6, seed=72)
    tensors['latent'] = x
    with torch.no_grad():
        tensors['velocity_t2v'] = run(x, context, 731, 731)
        tensors['latent_one'] = randn(48, 1, 4, 4, seed=73)
        tensors['velocity_one'] = run(tensors['latent_one'], context, 0, 500)
    xg, cg = x.clone().requires_grad_(), context.clone().requires_grad_()
    v = run(xg, cg, 0, 731)
    tensors['velocity'] = v
    gradients(dit, v, randn(*x.shape, seed=75), tensors, ('time_', 'modulation', 'blocks.0.self_attn.q.weight',
                                                          'blocks.1.ffn.0.bias', 'norm3', 'patch_embedding.bias'))
    tensors.update(grad_latent=xg.grad, grad_context=cg.grad)
    print('one timestep for all against a clean first frame:',
          float((tensors['velocity_t2v'] - v).norm() / v.norm()))
    save(f'{out}/ti2v.safetensors', tensors, timestep=731, loss='mean((velocity - target)^2)')


def make_clip(out):
    """The tower, and what comes before it: wan/modules/clip.py, CLIPModel.visual."""
    official.module('torchvision')
    official.module('torchvision.transforms')
    code = importlib.import_module('wan.modules.clip')
    code.flash_attention = official.flash_attention
    tower = randomise(code.VisionTransformer(image_size=16, patch_size=4, dim=32, mlp_ratio=2, out_dim=8, num_heads=2,
                                             num_layers=3, activation='gelu'), 81)
    os.makedirs(f'{out}/clip', exist_ok=True)
    names = {f'visual.{k}': p for k, p in tower.named_parameters()}
    names['log_scale'] = torch.zeros(1)
    names['textual.head.0.weight'] = torch.zeros(2, 2)
    torch.save({k: p.detach() for k, p in names.items()},
               f'{out}/clip/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth')
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    tensors = {}
    for name, size in (('wide', (24, 40)), ('tall', (37, 9)), ('same', (16, 16))):
        picture = randn(3, *size, seed=82).clamp(-1, 1)
        small = torch.nn.functional.interpolate(picture[None], size=(16, 16), mode='bicubic', align_corners=False)
        with torch.no_grad():
            features = tower((small * 0.5 + 0.5 - mean) / std, use_31_block=True)[0]
        tensors.update({f'picture_{name}': picture, f'features_{name}': features})
    save(f'{out}/clip.safetensors', tensors)


def main():
    out = sys.argv[4] if len(sys.argv) > 4 else os.path.join(os.path.dirname(os.path.abspath(__file__)), 'families')
    torch.set_num_threads(1)
    o = official.load(sys.argv[1], sys.argv[3])
    os.makedirs(out, exist_ok=True)
    make_i2v(o.model, out)
    make_ti2v(load_wan22(sys.argv[2]), out)
    make_clip(out)


if __name__ == '__main__':
    main()
