# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/clip.safetensors: what the official vision tower of Wan2.1's CLIP computes with tiny widths, weights and
inputs by tests/golden/formula.py.

    /usr/bin/python3 tests/golden/make_clip.py WAN21_CHECKOUT [OUT]

WAN21_CHECKOUT is Wan-Video/Wan2.1. In f32 and by one thread."""
import importlib
import os
import sys
import types

import torch

import formula
import official

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


class Normalize:
    """What torchvision's does."""

    def __init__(self, mean, std):
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))

    def __call__(self, x):
        return (x - self.mean) / self.std


def attention(q, k, v, **unused):
    return official.flash_attention(q, k, v)


def load(wan):
    transforms = official.module('torchvision.transforms', Normalize=Normalize)
    official.module('torchvision', transforms=transforms)
    official.package('wan', f'{wan}/wan')
    official.package('wan.modules', f'{wan}/wan/modules')
    official.module('wan.modules.attention', flash_attention=attention)
    official.module('wan.modules.tokenizers', HuggingfaceTokenizer=None)
    official.module('wan.modules.xlm_roberta', XLMRoberta=torch.nn.Module)
    return importlib.import_module('wan.modules.clip')


def main():
    out = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(os.path.abspath(__file__)), 'clip.safetensors')
    torch.set_num_threads(1)
    code = load(sys.argv[1])
    tower = code.VisionTransformer(image_size=224, patch_size=14, dim=160, mlp_ratio=2, out_dim=8, num_heads=2,
                                   num_layers=3, pool_type='token', pre_norm=True, activation='gelu')
    formula.fill(tower, 'visual.')
    model = code.CLIPModel.__new__(code.CLIPModel)
    model.dtype, model.model = torch.float32, types.SimpleNamespace(image_size=224, visual=tower)
    model.transforms = types.SimpleNamespace(transforms=[Normalize(MEAN, STD)])
    t = {}
    with torch.no_grad():
        for name, size in (('image', (90, 131)), ('large', (300, 417))):
            rows = model.visual([formula.tensor(name, 3, *size)[:, None]])[0]
            t[f'features_{name}'] = rows if name == 'image' else rows[::16]
    official.save(out, t, widths='160, 2 heads, mlp 320, 3 layers', large='every 16th row')


if __name__ == '__main__':
    main()
