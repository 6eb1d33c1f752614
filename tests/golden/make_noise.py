# SPDX-License-Identifier: Apache-2.0
"""Writes noise.json: torch.randn on the CPU for several seeds and sizes (needs PyTorch; made with 1.13.1, AVX2)."""
import json
import pathlib

import torch

cases = []
for seed, n in [(0, 1), (1, 2), (42, 15), (42, 16), (42, 17), (7, 31), (7, 32), (3, 100), (2**32 + 5, 40),
                (2**31 + 9, 624), (1234, 16 * 5 * 8 * 26 + 9), (0, 20480)]:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    index = list(range(n)) if n <= 100 else sorted({*range(20), *range(n - 20, n), *range(20, n - 20, n // 150)})
    cases.append({"seed": seed, "n": n, "index": index, "value": [x[i].item() for i in index],
                  "sum": x.double().sum().item(), "sum_abs": x.double().abs().sum().item()})
path = pathlib.Path(__file__).with_name("noise.json")
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
