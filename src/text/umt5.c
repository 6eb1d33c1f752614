/* SPDX-License-Identifier: Apache-2.0 */
/* UMT5 encoder: parameters, relative position bias, forward. */
#include "text/umt5.h"

#include <math.h>
#include <stdlib.h>

static t3v_status add_matrix(t3v_params *p, t3v_weight *w, int64_t out, int64_t in, int64_t i,
                             const char *name)
{
    w->bias = (t3v_tensor){.type = T3V_F32};
    return t3v_params_add(p, &w->w, true, T3V_SHAPE(out, in), "blocks.%lld.%s.weight", (long long)i, name);
}

static t3v_status add_block(t3v_params *p, t3v_umt5_block *b, const t3v_umt5_config *c, int64_t i)
{
    T3V_TRY(t3v_params_add(p, &b->norm1, false, T3V_SHAPE(c->dim), "blocks.%lld.norm1.weight", (long long)i));
    T3V_TRY(add_matrix(p, &b->q, c->dim_attn, c->dim, i, "attn.q"));
    T3V_TRY(add_matrix(p, &b->k, c->dim_attn, c->dim, i, "attn.k"));
    T3V_TRY(add_matrix(p, &b->v, c->dim_attn, c->dim, i, "attn.v"));
    T3V_TRY(add_matrix(p, &b->o, c->dim, c->dim_attn, i, "attn.o"));
    T3V_TRY(t3v_params_add(p, &b->norm2, false, T3V_SHAPE(c->dim), "blocks.%lld.norm2.weight", (long long)i));
    T3V_TRY(add_matrix(p, &b->gate, c->dim_ffn, c->dim, i, "ffn.gate.0"));
    T3V_TRY(add_matrix(p, &b->fc1, c->dim_ffn, c->dim, i, "ffn.fc1"));
    T3V_TRY(add_matrix(p, &b->fc2, c->dim, c->dim_ffn, i, "ffn.fc2"));
    return t3v_params_add(p, &b->position, false, T3V_SHAPE(c->buckets, c->heads),
                          "blocks.%lld.pos_embedding.embedding.weight", (long long)i);
}

t3v_status t3v_umt5_open(t3v_umt5 *m, const t3v_umt5_config *c)
{
    *m = (t3v_umt5){.config = *c};
    const struct {
        const char *what;
        int64_t value, least, most;
    } size[] = {{"layers", c->layers, 1, 1024},
                {"heads", c->heads, 1, 1024},
                {"columns", c->dim, 1, 1 << 16},
                {"inner columns", c->dim_attn, 1, 1 << 16},
                {"columns of the FFN", c->dim_ffn, 1, 1 << 18},
                {"rows of words", c->vocab, 4, 1 << 24},
                {"buckets of distances", c->buckets, 4, 256}}; /* above, those of near ones reach past 128 */
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        if (size[i].value < size[i].least || size[i].value > size[i].most)
            return t3v_fail(T3V_E_SHAPE, "text encoder: %lld %s, expected %lld to %lld",
                            (long long)size[i].value, size[i].what, (long long)size[i].least,
                            (long long)size[i].most);
    if (c->dim_attn % c->heads)
        return t3v_fail(T3V_E_SHAPE, "text encoder: %lld inner columns are not %lld heads",
                        (long long)c->dim_attn, (long long)c->heads);
    m->block = calloc((size_t)c->layers, sizeof *m->block);
    if (!m->block) return t3v_fail(T3V_E_NOMEM, "no memory for %lld text layers", (long long)c->layers);
    t3v_status st = t3v_params_add(&m->params, &m->embedding, true, T3V_SHAPE(c->vocab, c->dim),
                                   "token_embedding.weight");
    for (int64_t i = 0; i < c->layers && !st; i++) st = add_block(&m->params, &m->block[i], c, i);
    if (!st) st = t3v_params_add(&m->params, &m->norm, false, T3V_SHAPE(c->dim), "norm.weight");
    if (st) t3v_umt5_close(m);
    return st;
}

void t3v_umt5_close(t3v_umt5 *m)
{
    t3v_params_free(&m->params);
    free(m->block);
    *m = (t3v_umt5){0};
}

/* ---- relative position bias ----------------------------------------------------------------------- */

/* Bidirectional T5 bucket of r = key - query; logarithmic above a quarter of the buckets, up to 128. */
static int64_t bucket_of(int64_t r, int64_t buckets)
{
    int64_t half = buckets / 2, exact = half / 2, base = r > 0 ? half : 0, a = r < 0 ? -r : r;
    if (a < exact) return base + a;
    int64_t far = exact + (int64_t)(log((double)a / (double)exact) / log(128.0 / (double)exact) *
                                        (double)(half - exact) +
                                    1e-9);
    return base + (far < half - 1 ? far : half - 1);
}

static void bias_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const float *db = t3v_grad(ctx, r->out[0]);
    float *dt = t3v_grad(ctx, r->in[0]);
    int64_t heads = r->out[0]->shape[0], n = r->out[0]->shape[1], buckets = r->in[0]->shape[0];
    if (!dt || !t3v_runs(ctx)) return;
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                dt[bucket_of(j - i, buckets) * heads + h] += db[(h * n + i) * n + j];
}

static const t3v_op bias_op = {"position_bias", bias_backward};

/* [heads, n, n] from the table [buckets, heads]. */
static t3v_tensor *position_bias(t3v_ctx *ctx, const t3v_tensor *table, int64_t n)
{
    int64_t buckets = table->shape[0], heads = table->shape[1];
    t3v_tensor *y = t3v_new(ctx, T3V_F32, T3V_SHAPE(heads, n, n));
    t3v_tape_add(ctx, &bias_op, T3V_INS((t3v_tensor *)table), y, NULL, 0);
    if (!t3v_runs(ctx)) return y;
    float *out = t3v_host(ctx, y);
    const float *t = table->data;
    for (int64_t r = 1 - n; r < n; r++) {
        const float *row = t + bucket_of(r, buckets) * heads;
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = r < 0 ? -r : 0; i < n && i + r < n; i++) out[(h * n + i) * n + i + r] = row[h];
    }
    t3v_give(ctx, y);
    return y;
}

/* ---- forward -------------------------------------------------------------------------------------- */

t3v_tensor *t3v_umt5_encode(t3v_ctx *ctx, const t3v_umt5 *m, const int32_t *ids, int64_t n)
{
    const double eps = 1e-6;
    const t3v_umt5_config *c = &m->config;
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->vocab)
            return t3v_ctx_fail(ctx, t3v_fail(T3V_E_ARG,
                                              "token %lld has id %d, the text encoder knows 0 to %lld; "
                                              "do tokenizer and text encoder belong together?",
                                              (long long)i, ids[i], (long long)c->vocab - 1));
    t3v_tensor *x = t3v_embed(ctx, &m->embedding, ids, n);
    for (int64_t i = 0; i < c->layers && !ctx->status; i++) {
        const t3v_umt5_block *b = &m->block[i];
        t3v_tensor *h = t3v_rmsnorm(ctx, x, &b->norm1, eps, ctx->compute);
        t3v_tensor *q = t3v_linear(ctx, &b->q, h, ctx->compute), *k = t3v_linear(ctx, &b->k, h, ctx->compute);
        t3v_tensor *v = t3v_linear(ctx, &b->v, h, ctx->compute);
        t3v_tensor *o = t3v_sdpa(ctx, q, k, v, c->heads, 1.0, position_bias(ctx, &b->position, n));
        x = t3v_gate_residual(ctx, x, t3v_linear(ctx, &b->o, o, T3V_F32), NULL);
        h = t3v_rmsnorm(ctx, x, &b->norm2, eps, ctx->compute);
        t3v_tensor *g = t3v_geglu(ctx, t3v_linear(ctx, &b->gate, h, T3V_F32),
                                  t3v_linear(ctx, &b->fc1, h, T3V_F32), ctx->compute);
        x = t3v_gate_residual(ctx, x, t3v_linear(ctx, &b->fc2, g, T3V_F32), NULL);
    }
    return t3v_rmsnorm(ctx, x, &m->norm, eps, T3V_F32);
}
