/* SPDX-License-Identifier: Apache-2.0 */
/* Attention as an op: memory and the tape around attn/attend.h. */
#include "attn/attend_op.h"

#include <string.h>

#include "attn/device_run.h"
#include "ops/kernels.h"

typedef struct attend_attr {
    const t3v_site *site;
    const float *key_log_weight;
    int64_t heads;
    t3v_moment moment;
    t3v_tensor *param; /* [params]; the first of them is an input of the record, in the name of all */
    int params;
} attend_attr;

enum { PARAMS = T3V_SITE_PARAMS_MAX };

/* params [PARAMS] is filled and must live as long as the result. */
static t3v_attend_args make_args(const attend_attr *a, t3v_tensor *const *in, const float **params,
                                 t3v_tensor *out, float *lse)
{
    const t3v_tensor *q = in[0], *k = in[1], *v = in[2];
    int64_t d = t3v_cols(q);
    for (int i = 0; i < a->params; i++) params[i] = a->param[i].data;
    return (t3v_attend_args){
        .n_q = t3v_rows(q),
        .n_k = t3v_rows(k),
        .heads = (int)a->heads,
        .dim = (int)(d / a->heads),
        .q = q->data,
        .k = k->data,
        .v = v->data,
        .type = q->type,
        .q_stride = d,
        .k_stride = d,
        .v_stride = d,
        .key_log_weight = a->key_log_weight,
        .out = out->data,
        .out_type = out->type,
        .out_stride = d,
        .lse = lse,
        .moment = a->moment,
        .params = a->params ? params : NULL,
    };
}

static void attend_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const attend_attr *attr = r->attr;
    t3v_tensor *out = r->out[0];
    int64_t d = t3v_cols(out);
    const float *dout = t3v_grad(ctx, out), *params[PARAMS];
    float *grads[3], *dparams[PARAMS];
    for (int i = 0; i < 3; i++) grads[i] = t3v_grad(ctx, r->in[i]);
    for (int i = 0; i < attr->params; i++) dparams[i] = t3v_grad(ctx, attr->param + i);
    size_t mark = t3v_arena_mark(ctx->arena);
    for (int i = 0; i < 3; i++) /* a gradient nobody wants still needs a place */
        if (!grads[i]) grads[i] = t3v_data(ctx, t3v_numel(r->in[i]), sizeof(float));
    t3v_attend_args a = make_args(attr, r->in, params, out, r->saved[0]->data);
    t3v_attend_grad g = {.out = out->data,
                         .dout = dout,
                         .dout_type = T3V_F32,
                         .dout_stride = d,
                         .dq = grads[0],
                         .dk = grads[1],
                         .dv = grads[2],
                         .dq_stride = d,
                         .dk_stride = d,
                         .dv_stride = d,
                         .accumulate = true,
                         .dparams = dparams};
    if (!ctx->status) {
        a.scratch_bytes = t3v_arena_device(ctx->arena) ? t3v_device_run_scratch(attr->site, &a, &g)
                                                       : t3v_attend_backward_scratch(attr->site, &a, &g);
        a.scratch = t3v_data(ctx, (int64_t)a.scratch_bytes, 1);
    }
    if (t3v_runs(ctx))
        t3v_ctx_keep(ctx, t3v_arena_device(ctx->arena) ? t3v_device_run(ctx->arena, attr->site, &a, &g)
                                                       : t3v_attend_backward(attr->site, &a, &g));
    t3v_arena_back(ctx->arena, mark);
}

static const t3v_op attend_op = {"attend", attend_backward};

static void add_pairs(t3v_attend_met *met, const t3v_site *site, const t3v_attend_args *a)
{
    int64_t counted, macs;
    if (!t3v_site_cost(site, a->n_q, a->n_k, a->heads, a->dim, &a->moment, &counted, &macs)) return;
    met->met += (double)t3v_attend_pairs(site, a);
    met->counted += (double)counted;
    met->all += (double)a->heads * (double)a->n_q * (double)a->n_k;
}

t3v_tensor *t3v_attend(t3v_ctx *ctx, const t3v_site *site, int64_t heads, t3v_tensor *q, t3v_tensor *k,
                       t3v_tensor *v, const float *key_log_weight, const t3v_moment *moment,
                       const t3v_attend_own *own)
{
    if (ctx->status || !q || !k || !v) return NULL;
    bool record = ctx->tape != NULL;
    const t3v_device *device = t3v_arena_device(ctx->arena);
    t3v_tensor *out = record ? t3v_new_like(ctx, q, q->type) : q;
    t3v_site_param info[PARAMS];
    const float *params[PARAMS];
    attend_attr attr = {
        site, key_log_weight, heads, moment ? *moment : (t3v_moment){0}, own ? own->param : NULL, 0};
    if (attr.param) attr.params = t3v_site_params(site, heads, t3v_cols(q) / heads, info);
    t3v_tensor *in[4] = {q, k, v, attr.params ? attr.param : NULL};
    t3v_record *r = record ? t3v_tape_add(ctx, &attend_op, 4, in, out, &attr, sizeof attr) : NULL;
    if (r) r->saved[0] = t3v_new(ctx, T3V_F32, T3V_SHAPE(site->terms, heads, t3v_rows(q)));
    if (ctx->status) return NULL;
    size_t mark = t3v_arena_mark(ctx->arena);
    t3v_attend_args a = make_args(&attr, in, params, out, r ? r->saved[0]->data : NULL);
    a.state = own ? own->state : NULL;
    a.scratch_bytes = device ? t3v_device_run_scratch(site, &a, NULL) : t3v_attend_scratch(site, &a);
    a.scratch = t3v_data(ctx, (int64_t)a.scratch_bytes, 1);
    t3v_attend_met *met = own && t3v_site_selects(site) ? own->met : NULL;
    size_t words = met ? t3v_attend_chosen_words(site, a.heads) : 0;
    uint64_t *chosen = met ? t3v_temp(ctx, (int64_t)words, sizeof *chosen) : NULL;
    a.chosen = t3v_arena_twin(ctx->arena, chosen);
    if (t3v_runs(ctx)) {
        if (met) t3v_k(ctx)->clear(a.chosen, words * sizeof *chosen);
        t3v_ctx_keep(ctx, device ? t3v_device_run(ctx->arena, site, &a, NULL) : t3v_attend_run(site, &a));
        if (met && device && !ctx->status)
            t3v_ctx_keep(ctx, device->pull(chosen, a.chosen, words * sizeof *chosen));
        a.chosen = chosen;
        if (met && !ctx->status) add_pairs(met, site, &a);
    }
    t3v_arena_back(ctx->arena, mark);
    return ctx->status ? NULL : out;
}
