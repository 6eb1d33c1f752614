# SPDX-License-Identifier: Apache-2.0
"""Writes names.json: the tensors of each part under the names of the official releases and of another layout. The
originals are those of the official code's modules (few layers); the others come out of the conversion programs of
Diffusers and of stable-diffusion.cpp, which are run on them.

    /usr/bin/python3 tests/golden/make_names.py WAN21 WAN22 T3_VIDEO DIFFUSERS STABLE_DIFFUSION_CPP"""
import importlib
import importlib.util
import json
import os
import re
import sys

import torch

import official


class Anything:
    """Stands in for classes that the conversion script makes; keeps what was loaded into it."""
    loaded = None

    def __init__(self, *args, **kwargs):
        pass

    @classmethod
    def from_config(cls, *args, **kwargs):
        return cls()

    def load_state_dict(self, state, *args, **kwargs):
        Anything.loaded = dict(state)

    def to(self, *args):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False


def load_converter(diffusers):
    names = {
        'accelerate': ['init_empty_weights'],
        'huggingface_hub': ['hf_hub_download', 'snapshot_download'],
        'safetensors.torch': ['load_file'],
        'transformers': ['AutoProcessor', 'AutoTokenizer', 'CLIPImageProcessor', 'CLIPVisionModel',
                         'CLIPVisionModelWithProjection', 'UMT5EncoderModel'],
        'diffusers': ['AutoencoderKLWan', 'UniPCMultistepScheduler', 'WanAnimatePipeline', 'WanAnimateTransformer3DModel',
                      'WanImageToVideoPipeline', 'WanPipeline', 'WanTransformer3DModel', 'WanVACEPipeline',
                      'WanVACETransformer3DModel'],
    }
    for name, content in names.items():
        if '.' in name:
            official.module(name.split('.')[0])
        official.module(name, **{c: Anything for c in content})
    sys.modules['huggingface_hub'].snapshot_download = lambda *a, **k: '.'
    sys.modules['huggingface_hub'].hf_hub_download = lambda *a, **k: '.'
    spec = importlib.util.spec_from_file_location('convert_wan', f'{diffusers}/scripts/convert_wan_to_diffusers.py')
    converter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    return converter


def transformer(converter, kind, names):
    """[original, converted] of each name: the names travel as the values."""
    converter.load_sharded_safetensors = lambda d: {n: n for n in names}
    converter.convert_transformer(kind)
    return sorted([ours, theirs] for theirs, ours in Anything.loaded.items())


def vae(converter, function, names):
    torch.load = lambda *a, **k: {n: n for n in names}
    getattr(converter, function)()
    return sorted([ours, theirs] for theirs, ours in Anything.loaded.items())


def text(cpp, names):
    """From GGUF's names by the table of stable-diffusion.cpp to those of Transformers, whose own modules tell what they
    are: the feed-forward gate is wi_0."""
    table = re.search(r't5_name_map\{(.*?)\n    \};', open(f'{cpp}/src/name_conversion.cpp').read(), re.S).group(1)
    table = re.findall(r'\{"(.*?)", "(.*?)"\}', table)
    own = [(r'^token_embedding\.', 'token_embd.'), (r'^norm\.', 'enc.output_norm.'), (r'^blocks\.', 'enc.blk.'),
           (r'\.norm1\.', '.attn_norm.'), (r'\.norm2\.', '.ffn_norm.'), (r'\.attn\.(.)\.', r'.attn_\1.'),
           (r'\.pos_embedding\.embedding\.', '.attn_rel_b.'), (r'\.ffn\.gate\.0\.', '.ffn_gate.'),
           (r'\.ffn\.fc1\.', '.ffn_up.'), (r'\.ffn\.fc2\.', '.ffn_down.')]
    gguf, transformers = [], []
    for name in sorted(names):
        theirs = name
        for pattern, to in own:
            theirs = re.sub(pattern, to, theirs)
        gguf.append([name, theirs])
        for a, b in table:
            theirs = theirs.replace(a, b)
        transformers.append([name, theirs])
    return gguf, transformers


def main():
    wan21, wan22, t3, diffusers, cpp = sys.argv[1:6]
    o = official.load(wan21, t3)
    official.package('wan22', f'{wan22}/wan')
    official.package('wan22.modules', f'{wan22}/wan/modules')
    small = dict(dim=24, ffn_dim=48, freq_dim=16, text_dim=8, num_heads=2, num_layers=2)
    names = lambda module: list(module.state_dict())
    dit = {kind: names(o.model.WanModel(model_type=kind, in_dim=16 if kind == 't2v' else 36, **small))
           for kind in ('t2v', 'i2v', 'flf2v')}
    vace = importlib.import_module('wan.modules.vace_model')
    dit['vace'] = names(vace.VaceWanModel(vace_layers=[0, 1], vace_in_dim=96, **small))
    vae21 = names(o.vae.WanVAE_(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
                                temperal_downsample=[False, True, True]))
    vae22 = names(importlib.import_module('wan22.modules.vae2_2').WanVAE_(
        dim=8, dec_dim=8, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True]))
    encoder = names(o.t5.T5Encoder(vocab=16, dim=8, dim_attn=8, dim_ffn=16, num_heads=2, num_layers=2, num_buckets=4,
                                   shared_pos=False))
    c = load_converter(diffusers)
    out = {}
    for kind, official_kind in (('t2v', 'Wan-T2V-1.3B'), ('i2v', 'Wan-I2V-14B-480p'), ('flf2v', 'Wan-FLF2V-14B-720P'),
                                ('vace', 'Wan-VACE-1.3B')):
        out[f'dit diffusers {kind}'] = transformer(c, official_kind, dit[kind])
    out['vae diffusers'] = vae(c, 'convert_vae', vae21)
    out['vae diffusers 2.2'] = vae(c, 'convert_vae_22', vae22)
    out['text gguf'], out['text transformers'] = text(cpp, encoder)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'names.json'), 'w') as f:
        rows = [f'{json.dumps(k)}:[\n' + ',\n'.join(json.dumps(r, separators=(',', ':')) for r in v) + ']'
                for k, v in out.items()]
        f.write('{' + ',\n'.join(rows) + '}\n')
    print({k: len(v) for k, v in out.items()})


if __name__ == '__main__':
    main()
