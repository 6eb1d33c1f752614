/* SPDX-License-Identifier: Apache-2.0 */
/* What one sampler is made of: a grid of noise levels, a number of history planes, a step. */
#ifndef T3V_SCHED_KIND_H
#define T3V_SCHED_KIND_H

#include <math.h>
#include <stdbool.h>

#include "sched/sampler.h"

enum { T3V_SAMPLER_PLANES = 3 };

typedef struct t3v_sampler_kind {
    const char *name;
    int planes; /* f32 tensors of the latent's size kept from step to step */
    bool whole; /* timesteps are whole, and the first two must differ */
    /* Fills sigma[0..steps-1] with f32 values (the last, 0, is already there) and time[0..steps-1]. */
    void (*grid)(double *sigma, double *time, int steps, double shift);
    /* One step; h[k] are the planes. */
    void (*step)(const t3v_sampler *s, int i, float *x, const float *v, float *const *h, int64_t n);
} t3v_sampler_kind;

extern const t3v_sampler_kind t3v_sampler_euler, t3v_sampler_unipc, t3v_sampler_dpmpp;

/* ln((1 - sigma) / sigma): half the log of the signal-to-noise ratio; +inf at 0, -inf at 1. */
static inline double t3v_sampler_lambda(double sigma) { return log(1 - sigma) - log(sigma); }

#define T3V_SAMPLER_FOR(k, n) \
    _Pragma("omp parallel for schedule(static) if ((n) > 32768)") for (int64_t k = 0; k < (n); k++)

#endif
