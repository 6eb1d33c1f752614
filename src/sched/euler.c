/* SPDX-License-Identifier: Apache-2.0 */
/* Flow-match Euler as DiffSynth-Studio and T3-Video run it: x += v (sigma' - sigma), float timesteps. */
#include "sched/kind.h"

/* The reference computes its grid in f32, so ours does, operation by operation: near 1000 the last bit of
 * a timestep is 6e-5 rad in the time embedding. (torch's own grid varies by one or two such bits with the
 * width of its vectors.) It runs from 1 to 0 and is filled from both ends; the end is an exact 0. */
static void grid(double *sigma, double *time, int steps, double shift)
{
    const volatile float width = -1.0f / (float)steps; /* volatile: no contraction into fma */
    for (int i = 0; i < steps; i++) {
        const volatile float way = width * (float)(i < (steps + 1) / 2 ? i : steps - i);
        const float u = i < (steps + 1) / 2 ? 1.0f + way : -way;
        const volatile float up = (float)shift * u, down = (float)(shift - 1) * u;
        const volatile float level = up / (1.0f + down);
        const volatile float t = level * 1000.0f;
        sigma[i] = level;
        time[i] = t;
    }
}

static void step(const t3v_sampler *s, int i, float *x, const float *v, float *const *h, int64_t n)
{
    (void)h;
    const double d = t3v_sampler_sigma(s, i + 1) - t3v_sampler_sigma(s, i);
    T3V_SAMPLER_FOR(k, n) x[k] = (float)(x[k] + d * v[k]);
}

const t3v_sampler_kind t3v_sampler_euler = {"euler", 0, false, grid, step};
