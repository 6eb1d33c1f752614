# SPDX-License-Identifier: Apache-2.0
"""Numbers that a name and an index tell, the same as tests/golden/formula.h makes: weights and inputs of fixtures that
then need not be stored."""
import numpy as np
import torch

MASK = (1 << 64) - 1


def uniform(name, n):
    """n values of [-1, 1), multiples of 2^-23: splitmix64 of the name's FNV-1a hash plus the index."""
    seed = 0xcbf29ce484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001b3 & MASK
    x = (np.arange(n, dtype=np.uint64) + np.uint64(seed)) * np.uint64(0x9e3779b97f4a7c15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float64) * 2.0 ** -23 - 1


def tensor(name, *shape):
    return torch.from_numpy(uniform(name, int(np.prod(shape))).astype(np.float32).reshape(shape))


def weight(name, shape):
    """Norms near 1, vectors small, embeddings whole, matrices of about unit gain."""
    u, fan = uniform(name, int(np.prod(shape))), int(np.prod(shape[1:]))
    if 'gamma' in name or ('norm' in name and name.endswith('.weight')):
        u = 1 + 0.4 * u
    elif 'cls_' in name or 'pos_' in name:
        pass
    elif fan == 1:
        u = 0.25 * u
    else:
        u = u * np.sqrt(3.0 / fan)
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


def fill(model, prefix=''):
    """Every parameter by its name."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weight(prefix + name, tuple(p.shape)))
    return model.eval()
