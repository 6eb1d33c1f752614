/* SPDX-License-Identifier: Apache-2.0 */
/* The initial noise of a latent. */
#ifndef T3V_PIPE_NOISE_H
#define T3V_PIPE_NOISE_H

#include <stdint.h>

#include "base/status.h"

typedef enum t3v_noise_rng {
    T3V_NOISE_PHILOX, /* ours: element i depends on (seed, i) only */
    T3V_NOISE_TORCH,  /* PyTorch's CPU generator, one after the other */
} t3v_noise_rng;

/* "philox" or "torch"; else E_ARG. */
t3v_status t3v_noise_parse(const char *name, t3v_noise_rng *rng);

/* out[0..n) standard normal. TORCH gives what torch.randn(shape,
 * generator=torch.Generator().manual_seed(seed)) gives for a float32 tensor of n elements on the CPU: the
 * same draws, with log, sin and cos rounded once where PyTorch's AVX2 code approximates them, so values agree
 * to a few 1e-7 (below 16 elements: exactly). Only the low 32 bits of the seed count there, as in PyTorch. A
 * shape's noise is one call: it is not its parts' noise joined. */
void t3v_noise_fill(float *out, int64_t n, t3v_noise_rng rng, uint64_t seed);

#endif
