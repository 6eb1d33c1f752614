/* SPDX-License-Identifier: Apache-2.0 */
/* CLIP's vision tower: parameters, the picture's patches, the blocks. */
#include "clip/vision.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/conv_op.h"

enum { SIDE_MAX = 256 }; /* patches */
static const double eps = 1e-5;
const double t3v_clip_mean[3] = {0.48145466, 0.4578275, 0.40821073},
             t3v_clip_deviation[3] = {0.26862954, 0.26130258, 0.27577711};

/* ---- parameters ---------------------------------------------------------------------------------- */

static t3v_status axis(const t3v_tensor_file *f, const char *name, int ndim, int i, int64_t *out)
{
    const t3v_tensor_entry *e;
    T3V_TRY(t3v_tensors_get(f, name, &e));
    if (e->ndim != ndim)
        return t3v_fail(T3V_E_SHAPE, "%s: %s has %d axes, expected %d", f->path, name, e->ndim, ndim);
    *out = e->shape[i];
    return T3V_OK;
}

t3v_status t3v_clip_config_read(const t3v_tensor_file *f, t3v_clip_config *c)
{
    char name[64];
    int64_t rows = 0;
    *c = (t3v_clip_config){0};
    T3V_TRY(axis(f, "visual.patch_embedding.weight", 4, 0, &c->dim));
    T3V_TRY(axis(f, "visual.patch_embedding.weight", 4, 3, &c->patch));
    T3V_TRY(axis(f, "visual.pos_embedding", 3, 1, &rows));
    T3V_TRY(axis(f, "visual.transformer.0.mlp.0.weight", 2, 0, &c->mlp));
    for (c->layers = -1;; c->layers++) {
        snprintf(name, sizeof name, "visual.transformer.%lld.norm1.weight", (long long)c->layers + 1);
        if (!t3v_tensors_find(f, name)) break;
    }
    c->heads = c->dim / (c->dim % 80 ? 16 : 80);
    while (c->side < SIDE_MAX && c->side * c->side < rows - 1) c->side++;
    if (c->side < 1 || 1 + c->side * c->side != rows)
        return t3v_fail(T3V_E_SHAPE, "%s: %lld positions are not one and a square", f->path, (long long)rows);
    return T3V_OK;
}

static t3v_status add_pair(t3v_params *p, t3v_tensor *w, t3v_tensor *b, bool matrix, int ndim,
                           const int64_t *shape, const char *name)
{
    T3V_TRY(t3v_params_add(p, w, matrix, ndim, shape, "visual.%s.weight", name));
    return t3v_params_add(p, b, false, 1, shape, "visual.%s.bias", name);
}

static t3v_status add_block(t3v_params *p, t3v_clip_block *b, const t3v_clip_config *c, int64_t i)
{
    struct {
        const char *name;
        t3v_tensor *w, *b;
        int64_t out, in; /* in 0: a norm */
    } parts[] = {{"norm1", &b->norm1_w, &b->norm1_b, c->dim, 0},
                 {"attn.to_qkv", &b->qkv.w, &b->qkv.bias, 3 * c->dim, c->dim},
                 {"attn.proj", &b->proj.w, &b->proj.bias, c->dim, c->dim},
                 {"norm2", &b->norm2_w, &b->norm2_b, c->dim, 0},
                 {"mlp.0", &b->up.w, &b->up.bias, c->mlp, c->dim},
                 {"mlp.2", &b->down.w, &b->down.bias, c->dim, c->mlp}};
    char name[64];
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
        snprintf(name, sizeof name, "transformer.%lld.%s", (long long)i, parts[k].name);
        T3V_TRY(add_pair(p, parts[k].w, parts[k].b, parts[k].in > 0, parts[k].in > 0 ? 2 : 1,
                         (int64_t[]){parts[k].out, parts[k].in}, name));
    }
    return T3V_OK;
}

t3v_status t3v_clip_open(t3v_clip *m, const t3v_clip_config *c)
{
    t3v_params *p = &m->params;
    t3v_status st = T3V_OK;
    *m = (t3v_clip){.config = *c};
    if (c->dim < 1 || c->dim > 1 << 16 || c->heads < 1 || c->dim % c->heads || c->layers < 1 ||
        c->layers > 1024 || c->mlp < 1 || c->mlp > 1 << 18 || c->patch < 1 || c->patch > 256 || c->side < 1 ||
        c->side > SIDE_MAX)
        return t3v_fail(
            T3V_E_ARG,
            "image encoder: width %lld, %lld heads, %lld blocks, inner width %lld, %lld patches of %lld "
            "pixels a side do not fit",
            (long long)c->dim, (long long)c->heads, (long long)c->layers, (long long)c->mlp,
            (long long)c->side, (long long)c->patch);
    m->block = calloc((size_t)c->layers, sizeof *m->block);
    if (!m->block) return t3v_fail(T3V_E_NOMEM, "no memory for %lld blocks", (long long)c->layers);
    T3V_TRY_GOTO(st, fail,
                 t3v_params_add(p, &m->patch.w, true, T3V_SHAPE(c->dim, 3, c->patch, c->patch),
                                "visual.patch_embedding.weight"));
    m->patch.bias.type = T3V_F32;
    T3V_TRY_GOTO(st, fail,
                 t3v_params_add(p, &m->cls, false, T3V_SHAPE(1, 1, c->dim), "visual.cls_embedding"));
    T3V_TRY_GOTO(st, fail,
                 t3v_params_add(p, &m->pos, false, T3V_SHAPE(1, t3v_clip_rows(c), c->dim),
                                "visual.pos_embedding"));
    T3V_TRY_GOTO(st, fail, add_pair(p, &m->norm_w, &m->norm_b, false, T3V_SHAPE(c->dim), "pre_norm"));
    for (int64_t i = 0; i < c->layers; i++) T3V_TRY_GOTO(st, fail, add_block(p, &m->block[i], c, i));
    return T3V_OK;
fail:
    t3v_clip_close(m);
    return st;
}

void t3v_clip_close(t3v_clip *m)
{
    t3v_params_free(&m->params);
    free(m->block);
    *m = (t3v_clip){0};
}

int64_t t3v_clip_rows(const t3v_clip_config *c) { return 1 + c->side * c->side; }

/* ---- the picture ---------------------------------------------------------------------------------- */

/* Keys' cubic with a = -3/4, as PyTorch resizes by default. */
static double cubic(double x)
{
    const double a = -0.75;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    return 0;
}

/* Input index and weight of tap k of output i, when `in` pixels become `out`: four taps whatever the scale, and the edge
 * repeated. */
static double tap(int64_t i, int64_t k, int64_t in, int64_t out, int64_t *at)
{
    double centre = ((double)i + 0.5) * (double)in / (double)out - 0.5;
    int64_t first = (int64_t)floor(centre) - 1 + k;
    *at = first < 0 ? 0 : first >= in ? in - 1 : first;
    return cubic(centre - (double)first);
}

/* Rows [side^2, 3 patch^2] of the stretched and normalised picture: patches by row and column, in each colour, row, column. */
static t3v_tensor *patches(t3v_ctx *ctx, const t3v_clip_config *c, const float *rgb, int64_t height,
                           int64_t width)
{
    int64_t n = c->side * c->patch, area = c->patch * c->patch;
    t3v_tensor *y = t3v_new(ctx, T3V_F32, T3V_SHAPE(c->side * c->side, 3 * area));
    if (!t3v_runs(ctx)) return y;
    float *out = t3v_host(ctx, y);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < 3 * n; row++) {
        int64_t colour = row / n, py = row % n;
        const float *plane = rgb + colour * height * width;
        for (int64_t px = 0; px < n; px++) {
            double sum = 0;
            for (int64_t j = 0; j < 4; j++) {
                int64_t sy, sx;
                double wy = tap(py, j, height, n, &sy), line = 0;
                for (int64_t k = 0; k < 4; k++) {
                    double wx = tap(px, k, width, n, &sx);
                    line += wx * (double)plane[sy * width + sx];
                }
                sum += wy * line;
            }
            int64_t token = py / c->patch * c->side + px / c->patch;
            int64_t in_patch = py % c->patch * c->patch + px % c->patch;
            out[(token * 3 + colour) * area + in_patch] = (float)((0.5 * sum + 0.5 - t3v_clip_mean[colour]) /
                                                                  t3v_clip_deviation[colour]);
        }
    }
    t3v_give(ctx, y);
    return y;
}

/* ---- forward -------------------------------------------------------------------------------------- */

static t3v_tensor *norm(t3v_ctx *ctx, t3v_tensor *x, const t3v_tensor *w, const t3v_tensor *b, t3v_dtype out)
{
    return t3v_layernorm(ctx, x, (t3v_tensor *)w, (t3v_tensor *)b, false, eps, out);
}

t3v_tensor *t3v_clip_features(t3v_ctx *ctx, const t3v_clip *m, const float *rgb, int64_t height,
                              int64_t width)
{
    const t3v_clip_config *c = &m->config;
    int64_t rows = t3v_clip_rows(c), d = c->dim;
    double scale = 1 / sqrt((double)(d / c->heads));
    t3v_tensor *x = t3v_new(ctx, T3V_F32, T3V_SHAPE(rows, d));
    t3v_put(ctx, x, 0, t3v_reshape(ctx, (t3v_tensor *)&m->cls, T3V_SHAPE(1, d)));
    t3v_put(ctx, x, 1, t3v_linear(ctx, &m->patch, patches(ctx, c, rgb, height, width), T3V_F32));
    x = t3v_add_scaled(ctx, x, (t3v_tensor *)&m->pos, 1.0f);
    x = norm(ctx, x, &m->norm_w, &m->norm_b, T3V_F32);
    for (int64_t i = 0; i < c->layers && !ctx->status; i++) {
        const t3v_clip_block *b = &m->block[i];
        size_t mark = t3v_arena_mark(ctx->arena);
        t3v_tensor *qkv = t3v_linear(ctx, &b->qkv, norm(ctx, x, &b->norm1_w, &b->norm1_b, ctx->compute),
                                     T3V_F32);
        t3v_tensor *part[3];
        for (int k = 0; k < 3; k++) part[k] = t3v_cast(ctx, t3v_columns(ctx, qkv, k * d, d), ctx->compute);
        t3v_tensor *o = t3v_sdpa(ctx, part[0], part[1], part[2], c->heads, scale, NULL);
        x = t3v_gate_residual(ctx, x, t3v_linear(ctx, &b->proj, o, T3V_F32), NULL);
        t3v_tensor *h = t3v_linear(ctx, &b->up, norm(ctx, x, &b->norm2_w, &b->norm2_b, ctx->compute),
                                   T3V_F32);
        h = t3v_gelu_erf(ctx, h, ctx->compute);
        x = t3v_sink(ctx, mark, t3v_gate_residual(ctx, x, t3v_linear(ctx, &b->down, h, T3V_F32), NULL));
    }
    return x;
}
