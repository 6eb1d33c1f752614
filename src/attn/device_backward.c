/* SPDX-License-Identifier: Apache-2.0 */
/* The gradients of a site on a device: as attn/attend_backward.c, a term after the other, each row summed by one thread block. */
#include <string.h>

#include "attn/device_job.h"
#include "attn/source.h"

typedef struct layout {
    bool again;  /* the output of a term is computed again */
    bool tensor; /* dout as bf16 */
    bool top;    /* largest scores pass something on */
    /* offsets */
    size_t source, means, bits, turned, out, rounded, delta, factor, pooled, linear, slope, tops, keys, total;
} layout;

/* The inputs as they are where keys are tokens; pooled ones are as good. */
static bool takes_tensor(const t3v_attend_args *a)
{
    t3v_seg_inputs in = {.q = a->q,
                         .k = a->k,
                         .v = a->v,
                         .type = a->type,
                         .q_stride = a->q_stride,
                         .k_stride = a->k_stride,
                         .v_stride = a->v_stride,
                         .dim = a->dim};
    return !t3v_seg_backward_declines(&in);
}

static layout lay_out(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g)
{
    bool joint = site->combine == T3V_COMBINE_JOINT;
    layout l = {.again = !joint && ((site->terms > 1 && !site->epilogue) || !g->out),
                .tensor = takes_tensor(a),
                .top = t3v_attn_needs_top(site)};
    size_t row = (size_t)a->heads * (size_t)a->n_q * sizeof(float),
           words = t3v_attend_chosen_words(site, a->heads), pooled = 0;
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        size_t n = t->pool > 1 ? 2 * (size_t)t3v_source_rows(t, a) * (size_t)a->heads * (size_t)a->dim : 0;
        if (n > pooled) pooled = n;
    }
    l.source = t3v_device_take(&l.total, t3v_device_source_bytes(site, a));
    l.means = t3v_device_take(&l.total, t3v_device_means_bytes(site, a));
    l.bits = t3v_device_take(&l.total, words * sizeof(uint64_t));
    l.turned = t3v_device_take(&l.total, words * sizeof(uint64_t));
    l.out = t3v_device_take(&l.total, l.again ? row * (size_t)a->dim : 0);
    /* counted in any case: whether pointers are aligned is not known before they are there */
    l.rounded = t3v_device_take(&l.total, row / 2 * (size_t)a->dim);
    l.delta = t3v_device_take(&l.total, row);
    l.factor = t3v_device_take(&l.total, row);
    l.pooled = t3v_device_take(&l.total, pooled * sizeof(float));
    l.linear = t3v_device_take(&l.total, t3v_device_linear_bytes(site, a, a->heads, true));
    l.slope = t3v_device_take(&l.total, l.top ? row : 0);
    l.tops = t3v_device_take(&l.total, l.top ? (size_t)site->terms * row : 0);
    l.keys = t3v_device_take(&l.total, l.top ? (size_t)site->terms * row : 0);
    l.total += T3V_ATTN_ALIGN;
    return l;
}

size_t t3v_device_backward_scratch(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g)
{
    return lay_out(site, a, g).total;
}

typedef struct run {
    t3v_device_job job;
    const t3v_site *site;
    const t3v_attend_args *a;
    const t3v_attend_grad *g;
    layout l;
    char *scratch;
} run;

static float *floats(const run *r, size_t offset) { return (float *)(void *)(r->scratch + offset); }

/* [all heads][n_q] of a term, of which `at` has one after the other. */
static float *rows_at(const run *r, size_t at, int index)
{
    return floats(r, at) + (int64_t)index * r->a->heads * r->a->n_q;
}

/* What weighs the terms of a joint site; terms 0: it is none. */
static t3v_seg_shares shares(const run *r)
{
    if (r->site->combine != T3V_COMBINE_JOINT) return (t3v_seg_shares){.linear = -1};
    t3v_seg_shares by = t3v_device_shares(r->site);
    for (int i = 0; i < by.terms; i++) {
        by.lse[i] = r->a->lse + (int64_t)i * r->a->heads * r->a->n_q;
        if (r->l.top && i != by.linear) by.top[i] = rows_at(r, r->l.tops, i);
    }
    return by;
}

/* A term of heads [head, head + heads); f: its inputs and lists. */
static t3v_status run_heads(const run *r, int index, t3v_seg_forward *f, t3v_seg_backward *b, int head,
                            int heads)
{
    const t3v_attend_args *a = r->a;
    const t3v_attend_grad *g = r->g;
    const t3v_seg_kernels *kernels = r->job.kernels;
    void *stream = r->job.stream;
    int64_t width = (int64_t)a->heads * a->dim;
    bool joint = r->site->combine == T3V_COMBINE_JOINT;
    const void *out = g->out;
    f->in.head_first = head, f->in.heads = heads;
    if (r->l.again) {
        f->out = floats(r, r->l.out), f->out_type = T3V_F32, f->out_stride = width, f->weight = 1;
        out = f->out;
        T3V_TRY(t3v_device_run_forward(&r->job, f));
    }
    t3v_seg_stats s = {.dim = a->dim,
                       .head_first = head,
                       .heads = heads,
                       .n_q = a->n_q,
                       .out = out,
                       .dout = g->dout,
                       .out_type = r->l.again ? T3V_F32 : a->out_type,
                       .dout_type = g->dout_type,
                       .out_stride = r->l.again ? width : a->out_stride,
                       .dout_stride = g->dout_stride,
                       .by = shares(r),
                       .index = index,
                       .weight = joint || r->site->epilogue ? 1 : r->site->term[index].weight,
                       .delta = floats(r, r->l.delta),
                       .factor = floats(r, r->l.factor),
                       .rounded = r->l.tensor ? (uint16_t *)(void *)(r->scratch + r->l.rounded) : NULL,
                       .rounded_stride = width};
    T3V_TRY(t3v_device_launched(kernels->stats(&s, stream), "the sums of rows"));
    b->in = f->in;
    b->lse = a->lse + (int64_t)index * a->heads * a->n_q;
    b->delta = s.delta, b->factor = s.factor;
    b->dout = s.rounded ? s.rounded : g->dout;
    b->dout_type = s.rounded ? T3V_BF16 : g->dout_type;
    b->dout_stride = s.rounded ? width : g->dout_stride;
    b->dq = g->dq, b->dq_stride = g->dq_stride;
    b->lists = f->lists;
    T3V_TRY(t3v_device_launched((r->l.tensor ? kernels->backward_queries
                                             : kernels->backward_queries_plain)(b, stream),
                                "gradients of queries"));
    b->lists = t3v_device_lists_at(r->job.s, &r->job.s->term[index].by_key, a->n_k, a->n_q);
    if (r->site->term[index].select)
        b->lists.bits = r->job.turned, b->lists.begin = NULL, b->lists.ranges = NULL;
    return t3v_device_launched((r->l.tensor ? kernels->backward_keys : kernels->backward_keys_plain)(b,
                                                                                                     stream),
                               "gradients of keys");
}

/* Of every softmax term where each query's largest score is. */
static t3v_status find_tops(const run *r)
{
    const t3v_attend_args *a = r->a;
    for (int i = 0; i < r->site->terms; i++) {
        if (r->site->term[i].kind == T3V_TERM_LINEAR) continue;
        t3v_seg_forward f = {0};
        T3V_TRY(t3v_device_prepare(&r->job, i, 0, a->heads, &f));
        t3v_seg_peak p = {f.in, f.lists, rows_at(r, r->l.tops, i),
                          (int32_t *)(void *)rows_at(r, r->l.keys, i)};
        T3V_TRY(t3v_device_launched(r->job.kernels->peak(&p, r->job.stream), "the largest scores"));
    }
    return T3V_OK;
}

/* What those of term `index` pass on; dk: of the keys as the term has them. */
static t3v_status run_tops(const run *r, int index, const t3v_seg_forward *f, float *dk, int64_t dk_stride)
{
    t3v_seg_peak_back p = {.in = f->in,
                           .by = shares(r),
                           .index = index,
                           .key = (const int32_t *)(const void *)rows_at(r, r->l.keys, index),
                           .slope = floats(r, r->l.slope),
                           .keys = f->lists.columns,
                           .dq = r->g->dq,
                           .dk = dk,
                           .dq_stride = r->g->dq_stride,
                           .dk_stride = dk_stride};
    p.in.head_first = 0, p.in.heads = r->a->heads;
    return t3v_device_launched(r->job.kernels->peak_back(&p, r->job.stream),
                               "gradients of the largest scores");
}

static t3v_status run_linear(const run *r, int index)
{
    const t3v_attend_args *a = r->a;
    const t3v_attend_grad *g = r->g;
    t3v_seg_stats s = {.dim = a->dim,
                       .heads = a->heads,
                       .n_q = a->n_q,
                       .out = g->out,
                       .dout = g->dout,
                       .out_type = a->out_type,
                       .dout_type = g->dout_type,
                       .out_stride = a->out_stride,
                       .dout_stride = g->dout_stride,
                       .by = shares(r),
                       .index = index,
                       .delta = floats(r, r->l.delta),
                       .factor = floats(r, r->l.factor)};
    T3V_TRY(t3v_device_launched(r->job.kernels->stats(&s, r->job.stream), "the sums of rows"));
    return t3v_device_linear_backward(&r->job, index, r->scratch + r->l.linear, g, s.factor, s.delta,
                                      r->l.top ? floats(r, r->l.slope) : NULL);
}

static t3v_status run_term(const run *r, int index)
{
    const t3v_attend_args *a = r->a;
    const t3v_attend_grad *g = r->g;
    const t3v_term *t = &r->site->term[index];
    int64_t width = (int64_t)a->heads * a->dim, rows = t->pool > 1 ? t3v_source_rows(t, a) : 0;
    t3v_seg_forward f = {0};
    t3v_seg_backward b = {.dk = g->dk, .dv = g->dv, .dk_stride = g->dk_stride, .dv_stride = g->dv_stride};
    bool ready = false;
    if (rows) b.dk = floats(r, r->l.pooled), b.dv = b.dk + rows * width, b.dk_stride = b.dv_stride = width;
    for (int h = 0, next; h < a->heads; h = next) {
        int phase = t3v_device_stateless(r->site);
        bool active = t3v_device_active(r->site, phase, index, h, &a->moment);
        for (next = h + 1; next < a->heads; next++)
            if (t3v_device_active(r->site, phase, index, next, &a->moment) != active) break;
        if (!active) continue;
        if (!ready) {
            T3V_TRY(t3v_device_prepare(&r->job, index, 0, a->heads, &f));
            if (rows)
                T3V_TRY(
                    t3v_device_launched(r->job.kernels->fill(b.dk, 2 * rows, width, width, 0, r->job.stream),
                                        "clearing"));
            ready = true;
        }
        T3V_TRY(run_heads(r, index, &f, &b, h, next - h));
    }
    if (ready && r->l.top) T3V_TRY(run_tops(r, index, &f, b.dk, b.dk_stride));
    if (!rows || !ready) return T3V_OK;
    t3v_seg_unpool u = {.pooled_dk = b.dk,
                        .pooled_dv = b.dv,
                        .n_k = a->n_k,
                        .width = width,
                        .order = f.lists.row_order,
                        .pool = t->pool,
                        .dk = g->dk,
                        .dv = g->dv,
                        .dk_stride = g->dk_stride,
                        .dv_stride = g->dv_stride};
    return t3v_device_launched(r->job.kernels->unpool(&u, r->job.stream), "gradients of pooled keys");
}

t3v_status t3v_device_backward(const t3v_device_site *s, const t3v_attend_args *a, const t3v_attend_grad *g,
                               const t3v_device *device)
{
    const t3v_site *site = s->site;
    const t3v_seg_kernels *kernels = device->segments;
    void *stream = device->stream;
    T3V_TRY(t3v_attn_check(site, a));
    const char *why = t3v_device_attend_declines(site, a);
    if (why) return t3v_fail(T3V_E_UNSUPPORTED, "the gradient of attention on the device: %s", why);
    if (g->dout_type != T3V_F32 && g->dout_type != T3V_BF16)
        return t3v_fail(T3V_E_DTYPE, "attention gradient of type %s: F32 and BF16 are possible",
                        t3v_dtype_name(g->dout_type));
    if (!a->lse) return t3v_fail(T3V_E_ARG, "the gradient of attention needs the lse of the forward run");
    if (site->combine == T3V_COMBINE_JOINT && !g->out)
        return t3v_fail(T3V_E_ARG, "the gradient of joint attention needs its output");
    if (site->epilogue && a->state)
        return t3v_fail(T3V_E_UNSUPPORTED, "attention that keeps a state from step to step has no gradient");
    run r = {.job = {.s = s, .a = a, .device = device, .kernels = kernels, .stream = stream},
             .site = site,
             .a = a,
             .g = g,
             .l = lay_out(site, a, g)};
    if (a->scratch_bytes < r.l.total)
        return t3v_fail(T3V_E_ARG,
                        "the gradient of attention on the device got %zu bytes of scratch, needs %zu",
                        a->scratch_bytes, r.l.total);
    r.scratch = (char *)(((uintptr_t)a->scratch + T3V_ATTN_ALIGN - 1) / T3V_ATTN_ALIGN * T3V_ATTN_ALIGN);
    r.job.source = r.scratch + r.l.source;
    r.job.means = r.scratch + r.l.means;
    r.job.bits = (uint64_t *)(void *)(r.scratch + r.l.bits);
    r.job.turned = (uint64_t *)(void *)(r.scratch + r.l.turned);
    int64_t width = (int64_t)a->heads * a->dim;
    if (!g->accumulate) {
        T3V_TRY(
            t3v_device_launched(kernels->fill(g->dq, a->n_q, width, g->dq_stride, 0, stream), "clearing"));
        T3V_TRY(
            t3v_device_launched(kernels->fill(g->dk, a->n_k, width, g->dk_stride, 0, stream), "clearing"));
        T3V_TRY(
            t3v_device_launched(kernels->fill(g->dv, a->n_k, width, g->dv_stride, 0, stream), "clearing"));
    }
    int linear = t3v_device_shares(site).linear;
    if (r.l.top) T3V_TRY(find_tops(&r));
    if (linear >= 0)
        T3V_TRY(run_linear(&r, linear)); /* before the others: it gives what largest scores pass on */
    for (int i = 0; i < site->terms; i++)
        if (i != linear) T3V_TRY(run_term(&r, i));
    return T3V_OK;
}
