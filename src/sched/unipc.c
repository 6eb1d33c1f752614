/* SPDX-License-Identifier: Apache-2.0 */
/* UniPC (Zhao et al., 2023, B(h) = e^h - 1, order 2, predicting x0) in the variant of Wan-Video/Wan2.1. */
#include "sched/kind.h"

/* linspace(f32(0.999), 0, steps + 1) without its end, shifted; in double, then rounded to f32. The
 * timestep is cut from the double. */
static void grid(double *sigma, double *time, int steps, double shift)
{
    const double top = (float)(1 - 0.001), width = -top / steps;
    for (int i = 0; i < steps; i++) {
        const volatile double way = i * width;
        const double u = way + top;
        const volatile double up = shift * u, down = (shift - 1) * u;
        const double level = up / (1 + down);
        time[i] = trunc(level * 1000);
        sigma[i] = (float)level;
    }
}

static int order_at(int steps, int i)
{
    const int warm = i + 1 < 2 ? i + 1 : 2; /* one earlier prediction is known from step 1 on */
    return steps - i < warm ? steps - i : warm;
}

/* Step i first corrects x with the new prediction m_i, then predicts x at sigma(i+1). Both are linear in
 * {x before the last prediction, m_(i-2), m_(i-1), m_i} and {x, m_(i-1), m_i}.
 * Planes: 0 = m_(i-1), 1 = m_(i-2), 2 = the corrected x that the last prediction started from. */
static void step(const t3v_sampler *s, int i, float *x, const float *v, float *const *h, int64_t n)
{
    const int steps = t3v_sampler_steps(s);
    const double now = t3v_sampler_sigma(s, i), next = t3v_sampler_sigma(s, i + 1);
    double cx = 0, c2 = 0, c1 = 0, c0 = 0; /* corrector: cx last + c2 m_(i-2) + c1 m_(i-1) + c0 m_i */
    if (i > 0) {
        const double was = t3v_sampler_sigma(s, i - 1);
        const double hh = t3v_sampler_lambda(was) - t3v_sampler_lambda(now); /* -h */
        const double b = expm1(hh), scale = -(1 - now) * b;
        double rho = 0, rho_last = 0.5, r = 1;
        if (order_at(steps, i - 1) == 2) {
            const double phi1 = b / hh - 1, phi2 = phi1 / hh - 0.5;
            const double b1 = phi1 / b, b2 = 2 * phi2 / b;
            r = (t3v_sampler_lambda(t3v_sampler_sigma(s, i - 2)) - t3v_sampler_lambda(was)) / -hh;
            rho = (b2 - b1) / (r - 1);
            rho_last = b1 - rho;
        }
        cx = now / was;
        c2 = scale * rho / r;
        c0 = scale * rho_last;
        c1 = scale - c2 - c0;
    }
    double px = 0, p1 = 0, p0 = 1; /* predictor: px x + p1 m_(i-1) + p0 m_i; at the end x = m_i */
    if (next > 0) {
        const double hh = t3v_sampler_lambda(now) - t3v_sampler_lambda(next);
        const double scale = -(1 - next) * expm1(hh);
        px = next / now;
        if (order_at(steps, i) == 2) {
            const double before = t3v_sampler_lambda(t3v_sampler_sigma(s, i - 1));
            p1 = scale * 0.5 * -hh / (before - t3v_sampler_lambda(now));
        }
        p0 = scale - p1;
    }
    float *m1 = h[0], *m2 = h[1], *last = h[2];
    if (i == 0) {
        T3V_SAMPLER_FOR(k, n)
        {
            const double m = x[k] - now * v[k];
            last[k] = x[k];
            m1[k] = (float)m;
            m2[k] = 0;
            x[k] = (float)(px * x[k] + p0 * m);
        }
        return;
    }
    T3V_SAMPLER_FOR(k, n)
    {
        const double m = x[k] - now * v[k], old = m1[k];
        const double c = cx * last[k] + c2 * m2[k] + c1 * old + c0 * m;
        last[k] = (float)c;
        m2[k] = m1[k];
        m1[k] = (float)m;
        x[k] = (float)(px * c + p1 * old + p0 * m);
    }
}

const t3v_sampler_kind t3v_sampler_unipc = {"unipc", 3, true, grid, step};
