/* SPDX-License-Identifier: Apache-2.0 */
/* Flow matching: x moves from data to noise on a straight line, the model learns its velocity. */
#include "train/flow.h"

#include <math.h>
#include <stdio.h>

#include "base/rng.h"
#include "ops/kernels.h"

enum { TIMESTEPS = 1000 };

static double sigma_of(const t3v_flow *f, double u) { return f->shift * u / (1 + (f->shift - 1) * u); }

static double bell(double t) { return exp(-2 * pow((t - 500) / 1000, 2)); }

void t3v_flow_open(t3v_flow *f)
{
    double least = INFINITY, sum = 0;
    for (int i = 0; i < TIMESTEPS; i++) {
        double y = bell(1000 * sigma_of(f, 1 - i / (double)TIMESTEPS));
        sum += y;
        if (y < least) least = y;
    }
    f->weight_least = least;
    f->weight_mean = sum / TIMESTEPS - least;
}

double t3v_flow_weight(const t3v_flow *f, double t)
{
    return f->weighting == T3V_WEIGHT_NONE ? 1 : (bell(t) - f->weight_least) / f->weight_mean;
}

/* Memory for self-attention's outputs of all layers. */
static t3v_tensor **new_outputs(const t3v_flow *f, t3v_ctx *ctx)
{
    const t3v_dit_config *c = &f->dit->config;
    const t3v_grid *g = &f->plan->grid;
    t3v_tensor **out = t3v_temp(ctx, c->layers, sizeof *out);
    for (int64_t i = 0; i < c->layers && out; i++)
        out[i] = t3v_new(ctx, ctx->compute, T3V_SHAPE(g->t * g->h * g->w, c->dim));
    return out;
}

/* target = (1 - teach) target + teach v of the teacher, which is not recorded; attention (or NULL) gets its
 * self-attention. */
static void ask_teacher(const t3v_flow *f, t3v_ctx *ctx, t3v_tensor *x, t3v_tensor *context,
                        const t3v_dit_call *student, t3v_tensor *target, t3v_tensor **attention)
{
    t3v_tape *tape = ctx->tape;
    size_t mark = t3v_arena_mark(ctx->arena);
    t3v_dit_prompt prompt = {0};
    t3v_dit_call call = *student;
    ctx->tape = NULL;
    call.plan = f->teacher_plan;
    call.prompt = &prompt;
    call.attention = attention;
    if (!ctx->status && !t3v_dit_prompt_make(ctx, f->teacher, context, &prompt)) {
        t3v_tensor *v = t3v_dit_forward(ctx, f->teacher, x, &call);
        if (v && f->teach > 0 && t3v_runs(ctx))
            t3v_k(ctx)->rows_lincomb(target->data, T3V_F32, (float)(1 - f->teach), target->data, T3V_F32,
                                     (float)f->teach, v->data, T3V_F32, t3v_numel(v));
    }
    t3v_arena_back(ctx->arena, mark);
    ctx->tape = tape;
}

t3v_status t3v_flow_sample(const t3v_flow *f, t3v_ctx *ctx, const t3v_tensor *x0, t3v_tensor *context,
                           const t3v_flow_noise *noise, double scale, double *loss, t3v_flow_told *told)
{
    double s = sigma_of(f, noise->u);
    *told = (t3v_flow_told){.sigma = s};
    t3v_tensor *x = t3v_new_like(ctx, x0, T3V_F32), *target = t3v_new_like(ctx, x0, T3V_F32);
    t3v_tensor *eps = t3v_new_like(ctx, x0, T3V_F32);
    if (ctx->status) return ctx->status;
    int64_t n = t3v_numel(x);
    if (t3v_runs(ctx)) t3v_normal_fill(t3v_host(ctx, eps), n, noise->seed, noise->stream, 0);
    t3v_give(ctx, eps);
    if (t3v_runs(ctx)) {
        const t3v_kernels *k = t3v_k(ctx);
        k->rows_convert(target->data, T3V_F32, x0->data, T3V_BF16, n);
        k->rows_lincomb(x->data, T3V_F32, (float)(1 - s), target->data, T3V_F32, (float)s, eps->data, T3V_F32,
                        n);
        k->rows_lincomb(target->data, T3V_F32, 1.0f, eps->data, T3V_F32, -1.0f, target->data, T3V_F32, n);
        int64_t frames = n / x0->shape[0], frame = x0->shape[2] * x0->shape[3];
        for (int64_t at = 0; noise->first && at < n; at += frames)
            k->rows_convert((float *)x->data + at, T3V_F32, (const uint16_t *)x0->data + at, T3V_BF16, frame);
    }

    /* The step of the usual schedule that has this noise level. */
    int64_t at = (int64_t)((1 - noise->u) * (double)f->steps);
    t3v_dit_call call = {.plan = f->plan,
                         .timestep = 1000 * s,
                         .first_given = noise->first,
                         .skip_first = noise->first,
                         .range = f->range,
                         .moment = {at < f->steps ? at : f->steps - 1, f->steps, s,
                                    noise->cond ? T3V_BRANCH_COND : T3V_BRANCH_UNCOND}};
    t3v_tensor **attention = f->teacher && f->teach_layers > 0 ? new_outputs(f, ctx) : NULL;
    if (f->teacher) ask_teacher(f, ctx, x, context, &call, target, attention);
    if (attention) {
        call.teacher = attention;
        call.teach = scale * f->teach_layers;
        call.taught = &told->attention;
    }
    double w = t3v_flow_weight(f, call.timestep);
    T3V_TRY(t3v_dit_loss(ctx, f->dit, x, context, target->data, scale * w, &call, f->recompute, loss));
    *loss = *loss * w + f->teach_layers * told->attention;
    return T3V_OK;
}

void t3v_flow_levels_add(t3v_flow_levels *l, const t3v_flow_told *told, double loss)
{
    int level = (int)(4 * told->sigma) < 3 ? (int)(4 * told->sigma) : 3;
#pragma omp critical(t3v_levels)
    {
        l->sum[level] += loss;
        l->count[level]++;
        l->attention += told->attention;
    }
}

void t3v_flow_levels_tell(t3v_flow_levels *l, char *text, size_t n)
{
    size_t used = (size_t)snprintf(text, n, "\"by_sigma\":[");
    for (int i = 0; i < 4; i++)
        used += (size_t)snprintf(text + used, n - used, "%s%.4g", i ? "," : "",
                                 l->count[i] ? l->sum[i] / (double)l->count[i] : 0.0);
    used += (size_t)snprintf(text + used, n - used, "]");
    int64_t all = l->count[0] + l->count[1] + l->count[2] + l->count[3];
    if (l->attention > 0) snprintf(text + used, n - used, ",\"attention\":%.4g", l->attention / (double)all);
    *l = (t3v_flow_levels){0};
}
