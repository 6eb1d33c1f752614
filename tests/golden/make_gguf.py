# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/gguf with ggml itself: quantised blocks of every type with the values that ggml gives them, and the
tiny DiT of make_wan.py quantised and written by ggml, with the velocity of the official code on the same values.

    /usr/bin/python3 tests/golden/make_gguf.py GGML_CHECKOUT WAN_CHECKOUT T3_CHECKOUT [OUT]

GGML_CHECKOUT is ggml-org/ggml; its reference code is compiled without any instruction set beyond x86-64's own."""
import ctypes
import os
import subprocess
import sys
import tempfile
from ctypes import c_bool, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p

import numpy as np
import torch

import make_wan
import official

# ggml's number, elements and bytes of a block, where a block's halves are, and the name of the function
TYPES = {
    'Q8_0': (8, 32, 34, (0,), 'q8_0'),
    'Q4_0': (2, 32, 18, (0,), 'q4_0'),
    'Q4_1': (3, 32, 20, (0, 2), 'q4_1'),
    'Q5_0': (6, 32, 22, (0,), 'q5_0'),
    'Q5_1': (7, 32, 24, (0, 2), 'q5_1'),
    'Q2_K': (10, 256, 84, (80, 82), 'q2_K'),
    'Q3_K': (11, 256, 110, (108,), 'q3_K'),
    'Q4_K': (12, 256, 144, (0, 2), 'q4_K'),
    'Q5_K': (13, 256, 176, (0, 2), 'q5_K'),
    'Q6_K': (14, 256, 210, (208,), 'q6_K'),
}
F32, F16, BF16 = 0, 1, 30
BLOCKS = 24
# zero, the least, the greatest, subnormals, infinity, NaN
HALVES = (0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00)


class InitParams(ctypes.Structure):
    _fields_ = [('mem_size', c_size_t), ('mem_buffer', c_void_p), ('no_alloc', c_bool)]


def compile_ggml(checkout):
    folder = tempfile.mkdtemp()
    flags = ['-O2', '-fPIC', '-w', '-D_GNU_SOURCE', '-DGGML_VERSION="0"', '-DGGML_COMMIT="0"',
             f'-I{checkout}/include', f'-I{checkout}/src']
    objects = []
    for name in ('ggml.c', 'ggml-alloc.c', 'ggml-quants.c', 'gguf.cpp', 'ggml.cpp', 'ggml-threading.cpp',
                 'ggml-backend.cpp', 'ggml-backend-meta.cpp'):
        objects.append(f'{folder}/{name}.o')
        compiler = ['gcc'] if name.endswith('.c') else ['g++', '-std=c++17']
        subprocess.run([*compiler, *flags, '-c', f'{checkout}/src/{name}', '-o', objects[-1]], check=True)
    subprocess.run(['g++', '-shared', '-o', f'{folder}/libggml.so', *objects, '-lpthread', '-lm'], check=True)
    g = ctypes.CDLL(f'{folder}/libggml.so')
    for name in ('ggml_init', 'ggml_new_tensor', 'ggml_set_name', 'gguf_init_empty'):
        getattr(g, name).restype = c_void_p
    g.gguf_write_to_file.restype = c_bool
    g.ggml_quantize_chunk.restype = c_size_t
    return g


def dequantise(g, kind, data):
    number, block, size, halves, function = TYPES[kind]
    count = len(data) // size * block
    out = np.empty(count, np.float32)
    getattr(g, f'dequantize_row_{function}')(data, out.ctypes.data_as(c_void_p), c_int64(count))
    return out


def write_gguf(g, path, tensors, pairs):
    """tensors: (name, ggml's type, shape in PyTorch's order, bytes); pairs: functions of the context."""
    memory = g.ggml_init(InitParams(1 << 24, None, True))
    file = c_void_p(g.gguf_init_empty())
    for set_pair in pairs:
        set_pair(file)
    for name, kind, shape, data in tensors:
        sizes = (c_int64 * len(shape))(*reversed(shape))
        t = c_void_p(g.ggml_new_tensor(c_void_p(memory), c_int(kind), c_int(len(shape)), sizes))
        g.ggml_set_name(t, name.encode())
        g.gguf_add_tensor(file, t)
        g.gguf_set_tensor_data(file, name.encode(), data)
    assert g.gguf_write_to_file(file, path.encode(), c_bool(False))


def make_blocks(g, out):
    rng = np.random.default_rng(61)
    tensors, values = [], {}
    for kind, (number, block, size, halves, _) in TYPES.items():
        data = rng.integers(0, 256, (BLOCKS, size), np.uint8)
        for i in range(BLOCKS):
            for k, at in enumerate(halves):
                extreme = HALVES[(i + 3 * k) % len(HALVES)]
                half = extreme if i < len(HALVES) else int(np.float16(rng.normal() * 10.0 ** rng.integers(-4, 2)).view(np.uint16))
                data[i, at:at + 2] = half & 255, half >> 8
        data = data.tobytes()
        tensors.append((kind, number, (BLOCKS // 4, 4 * block), data))
        values[kind] = dequantise(g, kind, data).reshape(BLOCKS // 4, 4 * block)
    strings = (c_char_p * 3)(b'one', b'', b'three')
    ints = (c_int32 * 3)(-7, 0, 1 << 30)
    bools = (c_bool * 2)(True, False)
    pairs = [
        lambda f: g.gguf_set_val_str(f, b'general.architecture', b'test'),
        lambda f: g.gguf_set_val_u8(f, b'u8', ctypes.c_uint8(200)),
        lambda f: g.gguf_set_val_i8(f, b'i8', ctypes.c_int8(-100)),
        lambda f: g.gguf_set_val_u16(f, b'u16', ctypes.c_uint16(60000)),
        lambda f: g.gguf_set_val_i16(f, b'i16', ctypes.c_int16(-30000)),
        lambda f: g.gguf_set_val_u32(f, b'u32', ctypes.c_uint32(4000000000)),
        lambda f: g.gguf_set_val_i32(f, b'i32', ctypes.c_int32(-2000000000)),
        lambda f: g.gguf_set_val_u64(f, b'u64', ctypes.c_uint64(1 << 62)),
        lambda f: g.gguf_set_val_i64(f, b'i64', ctypes.c_int64(-(1 << 62))),
        lambda f: g.gguf_set_val_f32(f, b'f32', c_float(0.625)),
        lambda f: g.gguf_set_val_f64(f, b'f64', ctypes.c_double(-2.5)),
        lambda f: g.gguf_set_val_bool(f, b'bool', c_bool(True)),
        lambda f: g.gguf_set_arr_str(f, b'strings', strings, c_size_t(3)),
        lambda f: g.gguf_set_arr_data(f, b'ints', c_int(5), ints, c_size_t(3)),
        lambda f: g.gguf_set_arr_data(f, b'bools', c_int(7), bools, c_size_t(2)),
        lambda f: g.gguf_set_val_u32(f, b'general.alignment', ctypes.c_uint32(32)),
    ]
    write_gguf(g, f'{out}/blocks.gguf', tensors, pairs)
    official.save(f'{out}/blocks.safetensors', {k: v.view(np.int32) for k, v in values.items()}, values='bits of F32')


def kind_of(name, p):
    """A mixture like that of published files: no small or sensitive tensor is quantised."""
    if p.ndim == 1 or 'modulation' in name:
        return 'F32'
    if name.startswith('time_projection'):
        return 'Q8_0' # keeps the file small
    if not name.startswith('blocks.'):
        return 'F16'
    layer = name.split('.')[-2]
    return {'q': 'Q4_0', 'k': 'Q5_0', 'v': 'Q8_0', 'o': 'Q4_1', '0': 'Q4_0', '2': 'Q5_1'}[layer]


def make_tiny(g, wan, t3, out):
    """The tiny DiT in ggml's file: patch_embedding folded to four axes, trailing axes of 1 dropped."""
    o = official.load(wan, t3)
    dit = make_wan.randomise(o.model.WanModel(text_dim=make_wan.TEXT_DIM, **make_wan.DIT), 11)
    tensors = []
    with torch.no_grad():
        for name, p in dit.named_parameters():
            kind, x = kind_of(name, p), p.detach().numpy().astype(np.float32)
            shape = list(p.shape)
            if kind in TYPES:
                number, block, size, _, _ = TYPES[kind]
                data = ctypes.create_string_buffer(x.size // block * size)
                g.ggml_quantize_chunk(c_int(number), x.ctypes.data_as(c_void_p), data, c_int64(0),
                                      c_int64(shape[0]), c_int64(shape[1]), None)
                data = data.raw
                p.copy_(torch.from_numpy(dequantise(g, kind, data).reshape(shape)))
            else:
                x = x.astype(np.float16 if kind == 'F16' else np.float32)
                p.copy_(torch.from_numpy(x.astype(np.float32)))
                number, data = (F16 if kind == 'F16' else F32), x.tobytes()
            if len(shape) == 5:
                shape = [shape[0] * shape[1], *shape[2:]]
            tensors.append((name, number, shape, data))
        pairs = [lambda f: g.gguf_set_val_str(f, b'general.architecture', b'wan'),
                 lambda f: g.gguf_set_val_u32(f, b'general.quantization_version', ctypes.c_uint32(2))]
        write_gguf(g, f'{out}/tiny.gguf', tensors, pairs)
        latent = make_wan.randn(16, 3, 6, 10, seed=21)
        context = make_wan.randn(7, make_wan.TEXT_DIM, seed=22)
        v = make_wan.velocity(dit, latent, torch.tensor(731), context)
    official.save(f'{out}/tiny.safetensors', {'latent': latent, 'context': context, 'velocity': v}, timestep=731)


def main():
    ggml, wan, t3, *rest = sys.argv[1:]
    out = rest[0] if rest else os.path.join(os.path.dirname(os.path.abspath(__file__)), 'gguf')
    os.makedirs(out, exist_ok=True)
    torch.set_num_threads(1)
    g = compile_ggml(ggml)
    make_blocks(g, out)
    make_tiny(g, wan, t3, out)


main()
