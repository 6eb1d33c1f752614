/* SPDX-License-Identifier: Apache-2.0 */
/* DPM-Solver++ 2M, midpoint (Lu et al., 2022), in the variant of Wan-Video/Wan2.1. */
#include "sched/kind.h"

/* linspace(1, 0, steps + 1) without its end, shifted; in double, then rounded to f32. */
static void grid(double *sigma, double *time, int steps, double shift)
{
    const double width = -1.0 / steps;
    for (int i = 0; i < steps; i++) {
        const volatile double way = i * width;
        const double u = way + 1;
        const volatile double up = shift * u, down = (shift - 1) * u;
        const double level = up / (1 + down);
        time[i] = trunc(level * 1000);
        sigma[i] = (float)level;
    }
}

/* Plane 0 = m_(i-1). sigma(0) = 1 puts lambda(0) at -inf: h is infinite in step 0, and in step 1 the
 * difference of the two predictions has weight 0. Both fall out of the arithmetic. */
static void step(const t3v_sampler *s, int i, float *x, const float *v, float *const *h, int64_t n)
{
    const double now = t3v_sampler_sigma(s, i), next = t3v_sampler_sigma(s, i + 1);
    double px = 0, p1 = 0, p0 = 1; /* px x + p1 m_(i-1) + p0 m_i; at the end x = m_i */
    if (next > 0) {
        const double width = t3v_sampler_lambda(next) - t3v_sampler_lambda(now);
        const double scale = -(1 - next) * expm1(-width);
        px = next / now;
        if (i > 0) {
            const double before = t3v_sampler_lambda(t3v_sampler_sigma(s, i - 1));
            p1 = -scale * 0.5 * width / (t3v_sampler_lambda(now) - before);
        }
        p0 = scale - p1;
    }
    float *m1 = h[0];
    const double past = i > 0 ? p1 : 0;
    T3V_SAMPLER_FOR(k, n)
    {
        const double m = x[k] - now * v[k], old = i > 0 ? m1[k] : 0;
        m1[k] = (float)m;
        x[k] = (float)(px * x[k] + past * old + p0 * m);
    }
}

const t3v_sampler_kind t3v_sampler_dpmpp = {"dpm++", 1, true, grid, step};
