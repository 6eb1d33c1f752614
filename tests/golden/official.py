# SPDX-License-Identifier: Apache-2.0
"""Runs the official Wan2.1 code on a CPU with torch 1.13: stand-ins for what it imports and we lack."""
import importlib
import json
import re
import struct
import sys
import types

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


def module(name, **content):
    m = types.ModuleType(name)
    m.__dict__.update(content)
    sys.modules[name] = m
    return m


def package(name, path):
    m = module(name)
    m.__path__ = [str(path)]


class Config(dict):
    __getattr__ = dict.__getitem__


def register_to_config(init):
    """Keeps the constructor's arguments, defaults included, as self.config."""
    import inspect
    parameters = inspect.signature(init).parameters

    def wrapped(self, *args, **kwargs):
        given = inspect.signature(init).bind(self, *args, **kwargs)
        given.apply_defaults()
        self.config = Config({k: v for k, v in given.arguments.items() if k != 'self'})
        init(self, *args, **kwargs)

    wrapped.__signature__ = inspect.Signature(list(parameters.values()))
    return wrapped


class ConfigMixin:
    def register_to_config(self, **kwargs):
        self.config.update(kwargs)


class SchedulerOutput:
    def __init__(self, prev_sample):
        self.prev_sample = prev_sample


def rearrange(x, pattern, /, **sizes):
    """Permutes and regroups axes: 'b c (t n) -> (b n) c t'."""
    def axes(side):
        return [g.strip('()').split() for g in re.findall(r'\([^)]*\)|\w+', side)]

    before, after = map(axes, pattern.split('->'))
    shape = []
    for group, size in zip(before, x.shape):
        known = [sizes.get(a) for a in group]
        rest = size // int(np.prod([k for k in known if k], initial=1))
        shape += [k or rest for k in known]
    names = [a for g in before for a in g]
    length = dict(zip(names, shape))
    x = x.reshape(shape).permute([names.index(a) for g in after for a in g])
    return x.reshape([int(np.prod([length[a] for a in g])) for g in after])


def softmax_attention(q, k, v):
    """[..., L, D] each."""
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v


def flash_attention(q, k, v, k_lens=None, window_size=(-1, -1), **unused):
    """[B, L, heads, D]; every clip of these fixtures fills its sequence."""
    assert tuple(window_size) == (-1, -1) and (k_lens is None or int(k_lens.min()) == k.shape[1])
    return softmax_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


class Tokenizer:
    """The umT5 tokenizer: pieces, then </s>, cut to max_length with </s> kept, padded with 0."""

    def __init__(self, path):
        import sentencepiece
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=f'{path}/spiece.model')
        self.vocab_size = self.pieces.get_piece_size()

    @classmethod
    def from_pretrained(cls, path, **unused):
        return cls(path)

    def __call__(self, texts, max_length, **unused):
        ids = [self.pieces.encode(t)[:max_length - 1] + [1] for t in texts]
        pad = lambda row, fill: row + [fill] * (max_length - len(row))
        return types.SimpleNamespace(
            input_ids=torch.tensor([pad(r, 0) for r in ids]),
            attention_mask=torch.tensor([pad([1] * len(r), 0) for r in ids]))


def load(wan, t3):
    """The official modules from a checkout of Wan-Video/Wan2.1 and one of zhangzjn/T3-Video."""
    torch.cuda.current_device = lambda: 'cpu'
    F.scaled_dot_product_attention = softmax_attention
    module('einops', rearrange=rearrange)
    module('ftfy', fix_text=lambda text: text)
    module('regex', sub=re.sub)
    module('transformers', AutoTokenizer=Tokenizer)
    module('diffusers')
    module('diffusers.configuration_utils', ConfigMixin=ConfigMixin, register_to_config=register_to_config)
    module('diffusers.models')
    module('diffusers.models.modeling_utils', ModelMixin=nn.Module)
    module('diffusers.schedulers')
    module('diffusers.schedulers.scheduling_utils', KarrasDiffusionSchedulers=[],
           SchedulerMixin=type('SchedulerMixin', (), {}), SchedulerOutput=SchedulerOutput)
    module('diffusers.utils', deprecate=lambda *a: None, is_scipy_available=lambda: False)
    module('diffusers.utils.torch_utils', randn_tensor=None)
    package('wan', f'{wan}/wan')
    package('wan.modules', f'{wan}/wan/modules')
    package('wan.utils', f'{wan}/wan/utils')
    get = importlib.import_module
    package('diffsynth', f'{t3}/diffsynth')
    package('diffsynth.models', f'{t3}/diffsynth/models')
    package('diffsynth.schedulers', f'{t3}/diffsynth/schedulers')
    module('diffsynth.models.utils', hash_state_dict_keys=None)
    module('diffsynth.models.wan_video_camera_controller', SimpleAdapter=None)
    model = get('wan.modules.model')
    model.flash_attention = flash_attention
    return types.SimpleNamespace(
        model=model, t5=get('wan.modules.t5'), vae=get('wan.modules.vae'), tokenizers=get('wan.modules.tokenizers'),
        unipc=get('wan.utils.fm_solvers_unipc'), dpm=get('wan.utils.fm_solvers'),
        euler=get('diffsynth.schedulers.flow_match'), t3=get('diffsynth.models.wan_video_dit'))


def save(path, tensors, **metadata):
    """A safetensors file."""
    kinds = {np.dtype('float32'): 'F32', np.dtype('float64'): 'F64', np.dtype('int32'): 'I32', np.dtype('int64'): 'I64'}
    header, blobs, at = {'__metadata__': {k: str(v) for k, v in metadata.items()}}, [], 0
    for name, value in tensors.items():
        value = value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
        assert np.isfinite(value).all(), name
        blob = np.ascontiguousarray(value).tobytes()
        header[name] = {'dtype': kinds[value.dtype], 'shape': list(value.shape), 'data_offsets': [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + b''.join(blobs))
