/* SPDX-License-Identifier: Apache-2.0 */
/* TeaCache's measure: how much the time embedding moves from step to step. */
#include "pipe/teacache.h"

#include <math.h>
#include <string.h>

const double *t3v_teacache_polynomial(int64_t dim)
{
    static const double small[5] = {-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2};
    static const double large[5] = {-3.03318725e5, 4.90537029e4, -2.65530556e3, 5.87365115e1, -3.15583525e-1};
    static const double identity[5] = {0, 0, 0, 1, 0};
    return dim == 1536 ? small : dim == 5120 ? large : identity;
}

static double relative_change(const float *now, const float *before, int64_t n)
{
    double moved = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        moved += fabs((double)now[i] - (double)before[i]);
        size += fabs((double)before[i]);
    }
    return moved > 0 ? moved / size : 0;
}

static t3v_status walk(t3v_ctx *ctx, const t3v_dit *dit, const t3v_sampler *sampler, double *change)
{
    int64_t n = 6 * dit->config.dim;
    float *before = t3v_temp(ctx, n, sizeof *before);
    for (int i = 0; i < t3v_sampler_steps(sampler) && !ctx->status; i++) {
        size_t mark = t3v_arena_mark(ctx->arena);
        t3v_tensor *e, *e0;
        t3v_dit_time(ctx, dit, t3v_sampler_timestep(sampler, i), &e, &e0);
        if (ctx->status) break;
        change[i] = i ? relative_change(e0->data, before, n) : 0;
        memcpy(before, e0->data, (size_t)n * sizeof *before);
        t3v_arena_back(ctx->arena, mark);
    }
    return ctx->status;
}

t3v_status t3v_teacache_change(const t3v_model *m, const t3v_sampler *sampler, double *change)
{
    t3v_tensor_file *f = NULL;
    t3v_dit dit = {0};
    t3v_arena weights = {0}, work = {0};
    t3v_params_options o = {.matrix = T3V_F32, .map = true};
    t3v_ctx ctx = {.arena = &work, .compute = T3V_F32};
    t3v_status st = t3v_model_weights(m, T3V_AT_DIT, &f);
    if (!st) st = t3v_dit_open_time(&dit, &m->config);
    if (!st) st = t3v_arena_open(&weights, t3v_params_bytes(&dit.params, f, &o));
    if (!st) st = t3v_params_load(&dit.params, f, &o, &weights, false, NULL);
    if (!st) st = t3v_arena_open(&work, (size_t)256 << 20);
    if (!st) st = walk(&ctx, &dit, sampler, change);
    t3v_arena_close(&work);
    t3v_arena_close(&weights);
    t3v_dit_close(&dit);
    t3v_tensors_close(f);
    return st;
}
